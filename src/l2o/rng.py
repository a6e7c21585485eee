"""Counter-keyed random streams: what is drawn depends on names and numbers alone, never on what was drawn before.

A stream is keyed by (seed, names, trajectory, step) and, in a batch, by each task's own global index. So a batch of
tasks draws what its tasks would draw one by one or spread over processes, and a resumed run needs no generator state.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from l2o.errors import ArgumentError


@dataclass(frozen=True)
class Stream:
    """A named stream of random numbers for a batch of tasks.

    Every draw has the leading axis `[tasks, ...]` and comes from the start of its own key: two draws from one stream
    are equal. Take a `child` for each purpose.

    Args:
        seed: any integer.
        names: the path of purposes, for instance `("train", "init")`.
        trajectory: number of the trajectory, counted from 0.
        step: inner step, counted from 0.
        tasks: global indices of the tasks in this batch.

    Example:
        >>> stream = Stream(7, ("train",), tasks=range(3))
        >>> stream.child("init").normal((2,)).shape
        torch.Size([3, 2])
    """

    seed: int
    names: tuple[str, ...] = ()
    trajectory: int = 0
    step: int = 0
    tasks: Sequence[int] = (0,)

    def __post_init__(self) -> None:
        if isinstance(self.seed, bool) or not isinstance(self.seed, int):
            raise ArgumentError(f"seed is {self.seed!r}; pass an integer")
        if len(self.tasks) < 1:
            raise ArgumentError("a stream needs at least one task; pass tasks=range(n) with n >= 1")

    def child(self, name: str) -> "Stream":
        """The stream for one purpose below this one."""
        return replace(self, names=(*self.names, name))

    def at(self, *, trajectory: int | None = None, step: int | None = None) -> "Stream":
        """The same purpose at another trajectory or step."""
        return replace(
            self,
            trajectory=self.trajectory if trajectory is None else trajectory,
            step=self.step if step is None else step,
        )

    def over(self, tasks: Sequence[int]) -> "Stream":
        """The same purpose for other tasks, given by their global indices."""
        return replace(self, tasks=tasks)

    def normal(self, shape: Sequence[int] = ()) -> Tensor:
        """Standard normal numbers, float64 `[tasks, *shape]`."""
        return self._stack([g.standard_normal(tuple(shape)) for g in self.generators()])

    def uniform(self, shape: Sequence[int] = (), *, low: float = 0.0, high: float = 1.0) -> Tensor:
        """Uniform numbers in [low, high), float64 `[tasks, *shape]`."""
        return self._stack([g.uniform(low, high, tuple(shape)) for g in self.generators()])

    def integers(self, high: int, shape: Sequence[int] = ()) -> Tensor:
        """Uniform integers in 0..high-1, int64 `[tasks, *shape]`."""
        if high < 1:
            raise ArgumentError(f"cannot draw from {high} values; there must be at least one")
        return self._stack([g.integers(high, size=tuple(shape)) for g in self.generators()])

    def generators(self) -> list[np.random.Generator]:
        """One NumPy generator per task, keyed by everything above."""
        prefix = repr((self.seed, self.names, self.trajectory, self.step))
        return [np.random.Generator(np.random.Philox(key=_key(f"{prefix}{int(task)}"))) for task in self.tasks]

    def torch_generator(self) -> torch.Generator:
        """A torch generator keyed by the stream's first task, for initialisers that ask for one."""
        seed = int(self.generators()[0].integers(2**63 - 1))
        return torch.Generator().manual_seed(seed)

    @staticmethod
    def _stack(draws: list[np.ndarray]) -> Tensor:
        return torch.from_numpy(np.stack(draws))


def _key(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=16).digest(), "little")
