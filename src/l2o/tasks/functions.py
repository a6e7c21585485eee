"""Classical test functions of global optimization, each with a known minimum."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from l2o.errors import ArgumentError
from l2o.rng import Stream
from l2o.tasks.base import TaskFamily
from l2o.trees import Tree

Formula = Callable[[Tensor], Tensor]
"""From x `[dimensions]` to a scalar; usable under vmap."""


class BenchmarkFunction(TaskFamily):
    """One function of x `[dimensions]`; tasks differ in their start alone, uniform in a box.

    Each named constructor gives formula, starts, minimum and source. Starts are those of the ensemble of Wichrowska et
    al. 2017 where it has the function. Every function has its classical value; `raised` adds a constant, as that
    ensemble does with Styblinski-Tang, so that its loss is not negative.

    Args:
        name: the family's name in reports is `<name>-<dimensions>d`.
        formula: the function, from x `[dimensions]` to a scalar.
        low: lower ends of the box of starts, one number for each coordinate.
        high: upper ends of the box, each above its lower end.
        minimiser: a global minimiser.
        minimum: the value there.

    Example:
        >>> family = BenchmarkFunction.rosenbrock(3)
        >>> family.optimum(family.sample(Stream(0, tasks=range(2))))["x"]
        tensor([[1., 1., 1.],
                [1., 1., 1.]], dtype=torch.float64)
    """

    def __init__(
        self,
        name: str,
        formula: Formula,
        *,
        low: Sequence[float],
        high: Sequence[float],
        minimiser: Sequence[float],
        minimum: float,
    ) -> None:
        if not len(low) == len(high) == len(minimiser) or len(low) < 1:
            found = f"{len(low)}, {len(high)} and {len(minimiser)}"
            raise ArgumentError(f"low, high and minimiser have {found} numbers; pass one for each coordinate")
        if not all(lower < upper for lower, upper in zip(low, high, strict=True)):
            raise ArgumentError(f"low {tuple(low)} and high {tuple(high)}: every low end must lie below its high end")
        self.name = f"{name}-{len(low)}d"
        self.function = name
        self.dimensions = len(low)
        self.formula = formula
        self.low, self.high = tuple(low), tuple(high)
        self.minimiser, self.minimum = tuple(minimiser), minimum

    @classmethod
    def ackley(cls, dimensions: int = 2) -> "BenchmarkFunction":
        """-20 exp(-0.2 sqrt(mean x_i^2)) - exp(mean cos(2 pi x_i)) + 20 + e; start U(-32.768, 32.768); f(0) = 0.

        Not differentiable at its minimum; the gradient there is 0, the subgradient of least norm. Source: Ackley 1987.
        """
        return cls._on_cube("ackley", _ackley, dimensions, low=-32.768, high=32.768, minimiser=0.0)

    @classmethod
    def beale(cls) -> "BenchmarkFunction":
        """(1.5 - x + xy)^2 + (2.25 - x + xy^2)^2 + (2.625 - x + xy^3)^2; start U(-4.5, 4.5); f(3, 1/2) = 0.

        Source: Beale 1958.
        """
        return cls("beale", _beale, low=[-4.5] * 2, high=[4.5] * 2, minimiser=[3.0, 0.5], minimum=0.0)

    @classmethod
    def booth(cls) -> "BenchmarkFunction":
        """(x + 2y - 7)^2 + (2x + y - 5)^2; start U(-10, 10); f(1, 3) = 0.

        Source: the survey of Jamil and Yang 2013.
        """
        return cls("booth", _booth, low=[-10.0] * 2, high=[10.0] * 2, minimiser=[1.0, 3.0], minimum=0.0)

    @classmethod
    def branin(cls) -> "BenchmarkFunction":
        """(y - b x^2 + c x - 6)^2 + 10 (1 - t) cos(x) + 10; start U(-5, 10) x U(0, 15).

        b = 5.1 / (4 pi^2), c = 5 / pi, t = 1 / (8 pi). Three minimisers, all of value 10 t; the middle one,
        (pi, 2.275), is the one named. Source: Branin 1972, constants of Dixon and Szego 1978.
        """
        minimum = 10 / (8 * math.pi)
        return cls("branin", _branin, low=[-5.0, 0.0], high=[10.0, 15.0], minimiser=[math.pi, 2.275], minimum=minimum)

    @classmethod
    def log_sum_exp(cls) -> "BenchmarkFunction":
        """ln(exp(x + 3y - 0.1) + exp(x - 3y - 0.1) + exp(-x - 0.1)); start U(-2, 2); f(-ln(2)/2, 0) = ln(8)/2 - 0.1.

        Source: Boyd and Vandenberghe 2004, equation 9.20, whose logarithm it is. The starts are our own.
        """
        ends = {"low": [-2.0] * 2, "high": [2.0] * 2}
        minimiser, minimum = [-math.log(2) / 2, 0.0], math.log(8) / 2 - 0.1
        return cls("log-sum-exp", _log_sum_exp, **ends, minimiser=minimiser, minimum=minimum)

    @classmethod
    def matyas(cls) -> "BenchmarkFunction":
        """0.26 (x^2 + y^2) - 0.48 xy; start U(-10, 10); f(0) = 0.

        Source: the survey of Jamil and Yang 2013.
        """
        return cls("matyas", _matyas, low=[-10.0] * 2, high=[10.0] * 2, minimiser=[0.0, 0.0], minimum=0.0)

    @classmethod
    def rastrigin(cls, dimensions: int = 2) -> "BenchmarkFunction":
        """sum x_i^2 + 10 (1 - cos(2 pi x_i)); start U(-5.12, 5.12); f(0) = 0.

        Source: Rastrigin 1974, in the form of Muehlenbein et al. 1991 for any number of dimensions.
        """
        return cls._on_cube("rastrigin", _rastrigin, dimensions, low=-5.12, high=5.12, minimiser=0.0)

    @classmethod
    def rosenbrock(cls, dimensions: int = 2) -> "BenchmarkFunction":
        """sum_i 100 (x_{i+1} - x_i^2)^2 + (1 - x_i)^2; start U(-5, 10); f(1, ..., 1) = 0; at least 2 dimensions.

        Source: Rosenbrock 1960.
        """
        if dimensions < 2:
            raise ArgumentError(f"dimensions is {dimensions}; the Rosenbrock function needs at least 2")
        return cls._on_cube("rosenbrock", _rosenbrock, dimensions, low=-5.0, high=10.0, minimiser=1.0)

    @classmethod
    def styblinski_tang(cls, dimensions: int = 2) -> "BenchmarkFunction":
        """sum (x_i^4 - 16 x_i^2 + 5 x_i) / 2; start U(-5, 5); f(-2.9035, ...) = -39.1662 dimensions.

        The minimiser is the least root of 4 x^3 - 32 x + 5. Source: Styblinski and Tang 1990.
        """
        minimum = -39.166165703771415 * dimensions
        return cls._on_cube(
            "styblinski-tang",
            _styblinski_tang,
            dimensions,
            low=-5.0,
            high=5.0,
            minimiser=-2.903534027771177,
            minimum=minimum,
        )

    @classmethod
    def _on_cube(
        cls,
        name: str,
        formula: Formula,
        dimensions: int,
        *,
        low: float,
        high: float,
        minimiser: float,
        minimum: float = 0.0,
    ) -> "BenchmarkFunction":
        if dimensions < 1:
            raise ArgumentError(f"dimensions is {dimensions}; a function needs at least 1")
        ends = {"low": [low] * dimensions, "high": [high] * dimensions}
        return cls(name, formula, **ends, minimiser=[minimiser] * dimensions, minimum=minimum)

    def raised(self, by: float) -> "BenchmarkFunction":
        """The function plus a constant: the same gradients, and a minimum higher by it.

        Example:
            >>> BenchmarkFunction.styblinski_tang().raised(80).name
            'styblinski-tang-plus-80-2d'
        """
        if not math.isfinite(by):
            raise ArgumentError(f"by is {by}; a function is raised by a finite number")
        return BenchmarkFunction(
            f"{self.function}-plus-{by:g}",
            lambda x: self.formula(x) + by,
            low=self.low,
            high=self.high,
            minimiser=self.minimiser,
            minimum=self.minimum + by,
        )

    def sample(self, rng: Stream) -> Tree:
        """The minimiser `[tasks, dimensions]`, equal for all tasks: `optimum` has to know how many there are."""
        return {"minimiser": torch.tensor(self.minimiser, dtype=torch.float64).repeat(len(rng.tasks), 1)}

    def init(self, instance: Tree, rng: Stream) -> Tree:
        low, high = (torch.tensor(ends, dtype=torch.float64) for ends in (self.low, self.high))
        return {"x": low + (high - low) * rng.uniform((self.dimensions,))}

    def whole(self) -> Tree | None:
        return {}

    def loss(self, params: Tree, instance: Tree, batch: Tree) -> Tensor:
        return self.formula(params["x"])

    def optimum(self, instance: Tree) -> Tree:
        return {"x": instance["minimiser"]}


def _ackley(x: Tensor) -> Tensor:
    waves = torch.cos(2 * math.pi * x).mean().exp()
    return -20 * torch.exp(-0.2 * _safe_sqrt(x.square().mean())) - waves + 20 + math.e


def _beale(x: Tensor) -> Tensor:
    x, y = x.unbind()
    return (1.5 - x + x * y).square() + (2.25 - x + x * y**2).square() + (2.625 - x + x * y**3).square()


def _booth(x: Tensor) -> Tensor:
    x, y = x.unbind()
    return (x + 2 * y - 7).square() + (2 * x + y - 5).square()


def _branin(x: Tensor) -> Tensor:
    x, y = x.unbind()
    valley = y - 5.1 / (4 * math.pi**2) * x.square() + 5 / math.pi * x - 6
    return valley.square() + 10 * (1 - 1 / (8 * math.pi)) * torch.cos(x) + 10


def _log_sum_exp(x: Tensor) -> Tensor:
    x, y = x.unbind()
    return torch.logsumexp(torch.stack([x + 3 * y, x - 3 * y, -x]), dim=0) - 0.1


def _matyas(x: Tensor) -> Tensor:
    x, y = x.unbind()
    return 0.26 * (x.square() + y.square()) - 0.48 * x * y


def _rastrigin(x: Tensor) -> Tensor:
    return (x.square() + 10 * (1 - torch.cos(2 * math.pi * x))).sum()


def _rosenbrock(x: Tensor) -> Tensor:
    return (100 * (x[1:] - x[:-1].square()).square() + (1 - x[:-1]).square()).sum()


def _styblinski_tang(x: Tensor) -> Tensor:
    return (x**4 - 16 * x.square() + 5 * x).sum() / 2


def _safe_sqrt(square: Tensor) -> Tensor:
    """The square root with derivative 0 at 0, where sqrt's is infinite.

    Both branches of a `where` are differentiated, and inf times 0 is not a number: so the root is never taken of 0.
    """
    positive = square > 0
    return torch.where(positive, torch.where(positive, square, 1.0).sqrt(), 0.0)
