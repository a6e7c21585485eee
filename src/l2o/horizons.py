"""How long the trajectories of a meta-training are, and when they grow."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Protocol

import numpy as np

from l2o.errors import HorizonError
from l2o.rng import Stream


@dataclass(frozen=True)
class Stage:
    """A part of a meta-training.

    Args:
        steps: inner steps of its training trajectories; where they are random, of an average one.
        validation_steps: inner steps of its validations.
    """

    steps: int
    validation_steps: int


@dataclass(frozen=True)
class Standing:
    """Where a run stands in its horizon. Made by `begin` and `after`; everything in it is JSON.

    Args:
        stage: number of the stage, counted from 0.
        periods: validations in this stage, its baseline aside.
        best: lowest validation of this stage, baseline included; infinite before the first.
        improved: whether a period of this stage was the best so far.
        baseline: the next validation is this stage's baseline, before any training in it.
        keeps: the last validation found the best meta-parameters so far: they are to be kept.
        restores: the last validation ended a stage: the meta-parameters that were kept are to be taken up again.
        finished: there is nothing left to train.
    """

    stage: int = 0
    periods: int = 0
    best: float = math.inf
    improved: bool = False
    baseline: bool = False
    keeps: bool = False
    restores: bool = False
    finished: bool = False


class Horizon(Protocol):
    """A pure state machine, fed with validation values."""

    @property
    def stages(self) -> Sequence[Stage]:
        """The stages, in order."""
        ...

    def lengths(self, standing: Standing, rng: Stream) -> Sequence[int]:
        """Inner steps of each window of the trajectory whose stream it is: between them are the meta-updates."""
        ...

    def begin(self) -> Standing:
        """Where a run stands before its first validation."""
        ...

    def after(self, standing: Standing, value: float) -> Standing:
        """Where it stands after a validation of that value."""
        ...


@dataclass(frozen=True)
class ConstantHorizon:
    """Every trajectory has the same number of inner steps, in training and in validation.

    Args:
        steps: inner steps of a trajectory.
        window: inner steps between meta-updates; the horizon is a whole number of windows.

    Example:
        >>> ConstantHorizon(steps=100, window=20).windows
        5
    """

    steps: int = 100
    window: int = 20

    def __post_init__(self) -> None:
        _check(self.steps, self.window)

    @property
    def windows(self) -> int:
        """Meta-updates in one trajectory."""
        return self.steps // self.window

    @property
    def stages(self) -> Sequence[Stage]:
        return (Stage(self.steps, self.steps),)

    def lengths(self, standing: Standing, rng: Stream) -> Sequence[int]:
        del standing, rng
        return (self.window,) * self.windows

    def begin(self) -> Standing:
        return Standing(baseline=True)

    def after(self, standing: Standing, value: float) -> Standing:
        return _keeping_the_best(standing, value)


@dataclass(frozen=True)
class RandomHorizon:
    """Every trajectory has a random number of windows, and every window a random number of inner steps.

    A trajectory has windows + Exp(extra_windows) windows, each of window + Exp(extra_steps) steps, where Exp(m) is
    exponential with the mean m and rounded. Some trajectories are long, and an optimizer cannot adapt to one length.

    Args:
        windows: the fewest windows of a trajectory, at least 1.
        extra_windows: how many more there are on average, at least 0.
        window: the fewest inner steps of a window, at least 1.
        extra_steps: how many more there are on average, at least 0.
        validation_steps: inner steps of a validation, always the same.
        longest: the most inner steps of a window, for a bound on memory, which grows with a window's length; None for
            no bound. Exp(m) is more than 10 m once in 22,000 windows; longer windows than the bound are cut to it.

    Example:
        >>> RandomHorizon(windows=2).lengths(Standing(), Stream(0, trajectory=3))
        (37, 61)

    Source: Wichrowska et al. 2017; `published` has the constants of the public code.
    """

    windows: int = 1
    extra_windows: float = 5.0
    window: int = 20
    extra_steps: float = 20.0
    validation_steps: int = 100
    longest: int | None = None

    def __post_init__(self) -> None:
        for name in ("windows", "window", "validation_steps"):
            if getattr(self, name) < 1:
                raise HorizonError(f"{name} is {getattr(self, name)}; it must be at least 1")
        for name in ("extra_windows", "extra_steps"):
            if not 0 <= getattr(self, name) < math.inf:
                raise HorizonError(f"{name} is {getattr(self, name)}; it must be finite and not negative")
        if self.longest is not None and self.longest < self.window:
            raise HorizonError(
                f"longest is {self.longest}, below the {self.window} steps of every window; raise it, or pass None"
            )

    @classmethod
    def published(cls, *, longest: int | None = None) -> "RandomHorizon":
        """The public code's: 1 + Exp(40) windows of 50 + Exp(200) steps, 10,250 steps on average."""
        return cls(1, 40.0, 50, 200.0, longest=longest)

    @property
    def stages(self) -> Sequence[Stage]:
        extra = self.extra_steps
        if self.longest is not None and extra > 0:
            extra *= -math.expm1((self.window - self.longest) / extra)  # the mean of min(Exp(m), longest - window)
        average = (self.windows + self.extra_windows) * (self.window + extra)
        return (Stage(round(average), self.validation_steps),)

    def lengths(self, standing: Standing, rng: Stream) -> Sequence[int]:
        del standing
        (generator,) = rng.child("horizon").over((0,)).generators()  # of the trajectory, whatever its tasks
        windows = self.windows + round(generator.exponential(self.extra_windows))
        steps = self.window + np.rint(generator.exponential(self.extra_steps, windows))
        return tuple(int(length) for length in np.minimum(steps, self.longest or math.inf))

    def begin(self) -> Standing:
        return Standing(baseline=True)

    def after(self, standing: Standing, value: float) -> Standing:
        return _keeping_the_best(standing, value)


PUBLISHED_STAGES = (100, 200, 500, 1000, 1500, 2000, 2500, 3000)
"""Inner steps of the stages of Chen et al. 2020."""


@dataclass(frozen=True)
class Curriculum:
    """Trajectories grow stage by stage, for as long as longer ones still help (Chen et al. 2020, algorithm 1).

    A stage trains in periods, each ended by a validation at the length of the stage that follows. It goes on while a
    period is the best of the stage so far, at least for `periods` of them. Then the best meta-parameters are taken up
    again and, if this stage has found any, the next one begins with a validation of them at its own validation length,
    which its periods have to beat. A stage that finds nothing better ends the run.

    Args:
        steps: inner steps of each stage's training trajectories, rising.
        validation_steps: inner steps of each stage's validations, longer than its training; by default the steps of
            the stage that follows, and half as many again for the last one.
        window: inner steps between meta-updates.
        periods: validations of a stage before it may end.
        longest_stage: validations after which a stage ends even if every one was the best so far.

    Example:
        >>> Curriculum((100, 200)).stages
        (Stage(steps=100, validation_steps=200), Stage(steps=200, validation_steps=300))

    Source: Chen et al. 2020, algorithm 1. The first stage has no baseline: its first period always counts as the best.
    The public code fails on entering the last stage, which has no validation length there, and has no upper bound on
    the periods of a stage.
    """

    steps: tuple[int, ...] = PUBLISHED_STAGES
    validation_steps: tuple[int, ...] | None = None
    window: int = 20
    periods: int = 3
    longest_stage: int = 30

    def __post_init__(self) -> None:
        if not self.steps:
            raise HorizonError(
                "a curriculum without stages; pass the inner steps of each, for instance (100, 200, 500)"
            )
        for before, after in pairwise(self.steps):
            if after <= before:
                raise HorizonError(f"stages {self.steps} fall from {before} to {after}; each must be longer")
        if self.validation_steps is not None and len(self.validation_steps) != len(self.steps):
            raise HorizonError(
                f"{len(self.validation_steps)} validation lengths for {len(self.steps)} stages; pass one for each"
            )
        for steps in self.steps:
            _check(steps, self.window)
        for stage in self.stages:
            if stage.validation_steps < stage.steps:
                raise HorizonError(
                    f"a stage of {stage.steps} steps is validated on {stage.validation_steps}; take at least as many"
                )
        if not 1 <= self.periods <= self.longest_stage:
            raise HorizonError(
                f"periods is {self.periods} and longest_stage {self.longest_stage}; need 1 <= periods <= longest_stage"
            )

    @property
    def stages(self) -> Sequence[Stage]:
        validation = self.validation_steps or (*self.steps[1:], self.steps[-1] + self.steps[-1] // 2)
        return tuple(Stage(*lengths) for lengths in zip(self.steps, validation, strict=True))

    def lengths(self, standing: Standing, rng: Stream) -> Sequence[int]:
        del rng
        return (self.window,) * (self.steps[standing.stage] // self.window)

    def begin(self) -> Standing:
        return Standing()

    def after(self, standing: Standing, value: float) -> Standing:
        here = replace(standing, keeps=False, restores=False)
        if standing.baseline:
            return replace(here, best=value, baseline=False)
        better = value < standing.best
        here = replace(
            here,
            periods=standing.periods + 1,
            best=min(value, standing.best),
            improved=standing.improved or better,
            keeps=better,
        )
        if here.periods >= self.longest_stage or (not better and here.periods >= self.periods):
            return self._leave(here)
        return here

    def _leave(self, here: Standing) -> Standing:
        last = here.stage + 1 == len(self.steps)
        if last or not here.improved:
            return replace(here, restores=True, finished=True)
        return Standing(stage=here.stage + 1, baseline=True, keeps=here.keeps, restores=True)


def _keeping_the_best(standing: Standing, value: float) -> Standing:
    """Where a run of one endless stage stands after a validation."""
    return replace(standing, best=min(value, standing.best), baseline=False, keeps=value < standing.best)


def _check(steps: int, window: int) -> None:
    if window < 1 or steps < window:
        raise HorizonError(f"horizon {steps}, window {window}: need horizon >= window >= 1")
    if steps % window:
        nearest = steps - steps % window
        raise HorizonError(
            f"horizon {steps} is not a whole number of windows of {window}; take {nearest} or {nearest + window} steps"
        )
