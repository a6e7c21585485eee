"""Several processes of one run: which tasks each of them takes, and how what they found comes together."""

import os
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, distributed

from l2o.errors import ArgumentError, RankError
from l2o.trees import Tree

if TYPE_CHECKING:
    from torch.distributed.distributed_c10d import Store

_FAILED = "failed"


@dataclass(frozen=True)
class Ranks:
    """The processes of a run, numbered by rank, as one of them sees them. One that is alone exchanges nothing.

    All of them call the same methods in the same order, and wait for each other in each. What comes together is added
    up by each for itself, in the order of the ranks: all have the same bits, and a repeat has them again.

    Args:
        rank: the number of this process, counted from 0.
        count: how many there are.
        board: where a process that fails leaves word of it; None for one that is alone.

    Example:
        >>> [Ranks(rank, 3).share(8) for rank in range(3)]
        [range(0, 3), range(3, 6), range(6, 8)]
    """

    rank: int = 0
    count: int = 1
    board: "Store | None" = None

    @property
    def leads(self) -> bool:
        """Whether this is the first process, which alone writes files and tells of events."""
        return self.rank == 0

    def share(self, tasks: int) -> range:
        """The tasks of this process: neighbours, at most one more than another process has.

        Raises:
            ArgumentError: there are fewer tasks than processes.
        """
        if tasks < self.count:
            raise ArgumentError(
                f"there are {tasks} tasks for {self.count} processes, and each needs one; take at least {self.count} "
                f"tasks, or start at most {tasks} processes"
            )
        sizes = self._sizes(tasks)
        start = sum(sizes[: self.rank])
        return range(start, start + sizes[self.rank])

    def own(self, tree: Mapping[str, Tensor], *, tasks: int) -> Tree:
        """What belongs to this process's tasks: leaves as `gather` gives them, of all tasks, as it takes them."""
        if self.count == 1:
            return dict(tree)
        share = slice(self.share(tasks).start, self.share(tasks).stop)
        return {name: leaf.unflatten(0, (-1, tasks))[:, share].flatten(0, 1) for name, leaf in tree.items()}

    def gather(
        self, by_task: Mapping[str, Tensor], by_rank: Mapping[str, Tensor] | None = None, *, tasks: int
    ) -> tuple[Tree, Tree]:
        """What all processes have, in one exchange.

        Args:
            by_task: leaves `[share, ...]` of this process's tasks, or `[copies * share, ...]`, copy after copy.
            by_rank: leaves of any shape that is the same in all processes.
            tasks: of all processes together.

        Returns:
            The first for all tasks in their order, `[tasks, ...]` or `[copies * tasks, ...]`; the second stacked,
            `[ranks, ...]`.
        """
        alone = {name: leaf[None] for name, leaf in (by_rank or {}).items()}  # [1, ...]
        if self.count == 1:
            return dict(by_task), alone
        sizes = self._sizes(tasks)
        table, row = _packed(by_task, sizes[self.rank]), _packed(alone, 1)
        width = table.shape[1]
        message = torch.zeros(row.numel() + sizes[0] * width, dtype=torch.uint8)  # as long as the longest of all
        message[: row.numel()] = row[0]
        message[row.numel() : row.numel() + table.numel()] = table.flatten()
        messages = [torch.empty_like(message) for _ in sizes]
        with self._contact():
            distributed.all_gather(messages, message)
        rows = torch.stack([message[: row.numel()] for message in messages])  # [ranks, bytes]
        tables = [
            message[row.numel() :][: size * width].view(size, width)
            for message, size in zip(messages, sizes, strict=True)
        ]
        return _unpacked(torch.cat(tables), by_task, sizes[self.rank]), _unpacked(rows, alone, 1)

    def mean(self, stacked: Mapping[str, Tensor], *, tasks: int) -> Tree:
        """The mean over all tasks, of leaves `[ranks, ...]` that are means over the tasks of each rank."""
        weights = [size / tasks for size in self._sizes(tasks)]
        return {
            name: torch.stack([weight * mean for weight, mean in zip(weights, leaf, strict=True)]).sum(0)
            for name, leaf in stacked.items()
        }

    def any(self, *flags: bool) -> tuple[bool, ...]:
        """Each of the flags, whether it is up in any process."""
        if self.count == 1:
            return flags
        votes = torch.tensor(flags, dtype=torch.int32)
        with self._contact():
            distributed.all_reduce(votes, distributed.ReduceOp.MAX)
        return tuple(bool(vote) for vote in votes)

    def first(self, make: Callable[[], bytes]) -> bytes:
        """What the first process makes, for all of them."""
        if self.count == 1:
            return make()
        made = make() if self.leads else b""
        size = torch.tensor(len(made))
        with self._contact():
            distributed.broadcast(size, src=0)
            blob = np.frombuffer(made, dtype=np.uint8).copy() if self.leads else np.empty(int(size), dtype=np.uint8)
            distributed.broadcast(torch.from_numpy(blob), src=0)
        return blob.tobytes()

    def _sizes(self, tasks: int) -> list[int]:
        """How many tasks each process has; the first ones have those that are left over."""
        each, left = divmod(tasks, self.count)
        return [each + (rank < left) for rank in range(self.count)]

    @contextmanager
    def _contact(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:  # of gloo: a connection was closed, or nobody answered in time
            raise RankError(self._reason(error)) from error

    def _reason(self, error: RuntimeError) -> str:
        assert self.board is not None
        with suppress(RuntimeError):  # the process that keeps the board may be gone too
            if self.board.check([_FAILED]):
                return self.board.get(_FAILED).decode()
        return (
            f"process {self.rank} of {self.count} has lost another one, which was killed or did not answer in time; "
            f"started again, a run goes on from its last checkpoint ({str(error).partition('. ')[0]})"
        )


ALONE = Ranks()
"""One process that takes all tasks."""


def started() -> int:
    """How many processes `torchrun` has started, this one among them; 1 for a process that it did not start."""
    return int(os.environ.get("WORLD_SIZE", "1"))


@contextmanager
def joined(*, timeout: float = 600.0) -> Iterator[Ranks]:
    """The processes that `torchrun` has started, this one among them, for as long as the block runs.

    One that was started in any other way is alone. They talk through gloo, whatever computes; where there are GPUs,
    each process takes one as its "cuda".

    Args:
        timeout: seconds that the processes wait for each other, each time, before they give up.

    Raises:
        ArgumentError: the timeout is not positive.
        RankError: the others cannot be reached.

    Example:
        >>> with joined() as ranks:  # this process alone: `torchrun` did not start it
        ...     ranks.leads, ranks.share(4)
        (True, range(0, 4))
    """
    if not 0 < timeout < float("inf"):
        raise ArgumentError(f"timeout is {timeout}; it must be a positive number of seconds")
    count = started()
    if count == 1:
        yield ALONE
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    # Not every build of torch has these.
    from torch.distributed.distributed_c10d import PrefixStore
    from torch.distributed.rendezvous import rendezvous

    wait = timedelta(seconds=timeout)
    try:
        common, rank, _ = next(rendezvous("env://", timeout=wait))
        board = PrefixStore(agreed_name(common, rank, count, timeout=timeout), common)
        distributed.init_process_group("gloo", store=board, rank=rank, world_size=count, timeout=wait)
    except (RuntimeError, ValueError, TimeoutError) as error:
        raise RankError(f"the {count} processes of a run did not meet; start them with torchrun ({error})") from error
    try:
        yield Ranks(rank, count, board)
    except RankError:
        raise
    except BaseException as error:
        with suppress(RuntimeError):
            board.set(_FAILED, f"process {rank} of {count} failed: {type(error).__name__}: {error}")
        raise
    finally:
        distributed.destroy_process_group()


def agreed_name(board: "Store", rank: int, count: int, *, timeout: float) -> str:
    """A name that the processes of today agree on, and no process that is dead ever had.

    torchrun keeps one board through all its restarts, so that the addresses which dead processes left there would be
    taken for those of the living. Here each writes a name of its own; the first publishes all that it sees, until every
    other one has found its own among them and has said so with the name of the first, which is the result.

    Raises:
        TimeoutError: the others do not come.
    """
    mine, deadline = uuid.uuid4().hex, time.monotonic() + timeout
    board.set(f"name/{rank}", mine)
    while time.monotonic() < deadline:
        if rank == 0:
            board.set("names", " ".join([mine, *(_read(board, f"name/{other}") for other in range(1, count))]))
            if all(_read(board, f"agreed/{other}") == mine for other in range(1, count)):
                return mine
        else:
            first, *others = _read(board, "names").split(" ")
            if mine in others:
                board.set(f"agreed/{rank}", first)
                return first
        time.sleep(0.01)
    raise TimeoutError(f"waited {timeout:.0f} seconds for the others")


def _read(board: "Store", key: str) -> str:
    """What stands on a board; nothing before somebody has written it."""
    return board.get(key).decode() if board.check([key]) else ""


def _packed(tree: Mapping[str, Tensor], tasks: int) -> Tensor:
    """The bytes of leaves `[copies * tasks, ...]`, a row for each task: uint8 `[tasks, bytes]`."""
    parts = [torch.empty(tasks, 0, dtype=torch.uint8)]
    for name in sorted(tree):  # a file gives leaves back in any order
        leaf = tree[name].detach().cpu().unflatten(0, (-1, tasks)).transpose(0, 1)  # [tasks, copies, ...]
        parts.append(_plain(leaf).view(torch.uint8).flatten(1))
    return torch.cat(parts, dim=1)


def _unpacked(table: Tensor, like: Mapping[str, Tensor], tasks: int) -> Tree:
    """The inverse of `_packed`, for a table of more tasks than those of the tree that it is like."""
    widths = [like[name].nbytes // tasks for name in sorted(like)]
    found: Tree = {}
    for name, part in zip(sorted(like), table.split(widths, dim=1), strict=True):
        leaf = like[name]
        shape = (len(table), len(leaf) // tasks, *leaf.shape[1:])
        whole = _plain(part).flatten().view(leaf.dtype).reshape(shape)
        found[name] = whole.transpose(0, 1).flatten(0, 1).to(leaf.device)
    return {name: found[name] for name in like}


def _plain(leaf: Tensor) -> Tensor:
    """A copy with the strides of its shape: an axis of length 1 may have any, and still count as contiguous."""
    return leaf.clone(memory_format=torch.contiguous_format)
