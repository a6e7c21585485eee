"""One thread for many small matrices."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def one_thread() -> Iterator[None]:
    """torch computes on one thread inside, and on as many as before afterwards; also as a decorator, `@one_thread()`.

    Threads cost more than they bring where matrices have tens of rows: two of them on a busy machine with two cores
    made the passes of LQG 10 to 100 times slower. The number of threads is the whole process's.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
