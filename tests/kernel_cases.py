"""What the tests of kernels share: the networks that the native kernel covers, gradients of every kind, a truth."""

import copy

import pytest
import torch
from torch import Tensor

from l2o import L2ODM, RNNprop
from l2o.kernels import native
from l2o.kernels.reference import Reference
from l2o.optimizers.base import Coordinatewise
from l2o.trees import Tree

COVERED = {
    "identity": lambda seed: L2ODM.for_quadratics(seed=seed),
    "log and sign": lambda seed: L2ODM.andrychowicz(seed=seed),
    "moments": lambda seed: RNNprop(alpha=0.03, seed=seed),
}

GRADIENTS = {
    "default": lambda shape, rng: torch.randn(shape, generator=rng),
    "scaled": lambda shape, rng: 1e-3 * torch.randn(shape, generator=rng),
    "tiny": lambda shape, rng: 1e-8 * torch.randn(shape, generator=rng),
    "huge": lambda shape, rng: 1e8 * torch.randn(shape, generator=rng),
    "zero": lambda shape, rng: torch.zeros(shape),
    "subnormal": lambda shape, rng: 1e-40 * torch.randn(shape, generator=rng),
    "mixed": lambda shape, rng: (
        torch.randn(shape, generator=rng)
        * 10.0 ** torch.randint(-12, 9, shape, generator=rng)
        * (torch.rand(shape, generator=rng) > 0.1)
    ),
}

every_covered = pytest.mark.parametrize("make", COVERED.values(), ids=COVERED.keys())
every_gradient = pytest.mark.parametrize("draw", GRADIENTS.values(), ids=GRADIENTS.keys())

needs_native = pytest.mark.skipif(isinstance(native.load(), str), reason=str(native.load()))


def loadable() -> list[str]:
    """The instruction sets whose kernels run on this machine."""
    widest = {"AVX2": ["avx2"], "AVX512": ["avx2", "avx512"]}
    return widest.get(torch.backends.cpu.get_cpu_capability(), [])


def kernel(instructions: str) -> native.Native:
    loaded = native.load(instructions)
    assert isinstance(loaded, native.Native), loaded
    return loaded


every_kernel = pytest.mark.parametrize("instructions", loadable() or [pytest.param("", marks=pytest.mark.skip)])


def moved(make, seed: int, scale: float = 1.0) -> Coordinatewise:
    """A rule whose meta-parameters have all moved away from where they start."""
    rule = make(seed)
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in rule.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=rng)).mul_(scale)
    return rule


def started(rule: Coordinatewise, tasks: int, coordinates: int, seed: int) -> Tree:
    """A state as it is in the middle of a trajectory."""
    rng = torch.Generator().manual_seed(seed)
    state = rule.init_coordinates(tasks, coordinates, torch.zeros(()))
    drawn = {name: 0.5 * torch.randn(leaf.shape, generator=rng) for name, leaf in state.items()}
    if "v" in drawn:
        drawn["v"] = drawn["v"].square() + 1e-3
        drawn["step"] = torch.arange(3.0, 3.0 + tasks)
    return drawn


def observed(grads: Tensor) -> list[Tree]:
    """Recorded observations `[steps, tasks, coordinates]` as a window has them."""
    return [{"grad/x": grad} for grad in grads]


def in_double(rule: Coordinatewise, state: Tree) -> tuple[Coordinatewise, Tree]:
    return copy.deepcopy(rule).double(), {name: leaf.double() for name, leaf in state.items()}


def joined(tree: Tree) -> Tensor:
    return torch.cat([leaf.double().flatten() for leaf in tree.values()])


def error(value: Tensor, truth: Tensor) -> float:
    """Distance relative to the truth's size; 0 for nothing at all."""
    return float((value.double() - truth).norm() / truth.norm().clamp(min=1e-300)) if truth.numel() else 0.0


reference = Reference()
