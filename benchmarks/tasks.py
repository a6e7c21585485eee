"""The workloads: optimizees at their start, without data to fetch, and the sizes of a full and of a quick run."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from l2o.methods.base import Trajectory
from l2o.methods.meta_loss import MetaLoss
from l2o.optimizers.base import LearnedOptimizer
from l2o.optimizers.dm import L2ODM
from l2o.optimizers.rnnprop import RNNprop
from l2o.processes.optimizee import Optimizee
from l2o.rng import Stream
from l2o.tasks.base import TaskFamily
from l2o.tasks.data import Dataset
from l2o.tasks.mlp import MLPClassifier
from l2o.tasks.module import ModuleTask
from l2o.tasks.quadratic import Quadratics
from l2o.trees import Tree

LEARNED: dict[str, Callable[[], LearnedOptimizer]] = {"L2O-DM": L2ODM.andrychowicz, "RNNprop": RNNprop.lv}
EXAMPLES = 1000

Shapes = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Size:
    """How large everything is.

    Args:
        name: of the preset in records.
        pixels: side of an image.
        batch: images in a minibatch.
        quadratics: in the batch of quadratics.
        steps: inner steps of a window.
        matrix: side of the matrices whose product gives the rate of the machine.
        steps_of: what one drop-in step is measured on: heading to the shapes of the parameters.
        step_scaling: coordinates of the drop-in's scaling.
        window_scaling: coordinates of the window's scaling.
        window_limit: coordinates above which a window is run natively only.
        lengths: windows of the scaling with length.
        rounds: of every contest that a criterion looks at.
        scaling_rounds: of the scaling.
        turn: seconds for which a short call is repeated in its turn.
        compile: whether torch.compile takes part.
        jax: workloads in which JAX takes part.
        memory: rules whose memory is measured.
        gan_batch: images in a minibatch of the GAN.
        replica_steps: steps of the regression's runs.
        lqg: states and steps of a control step.
        shared: trajectories, windows of each, and tasks of the meta-training that processes share.
    """

    name: str
    pixels: int
    batch: int
    quadratics: int
    steps: int
    matrix: int
    steps_of: dict[str, Shapes]
    step_scaling: tuple[int, ...]
    window_scaling: tuple[int, ...]
    window_limit: int
    lengths: tuple[int, ...]
    rounds: int
    scaling_rounds: int
    turn: float
    compile: bool
    jax: tuple[str, ...]
    memory: tuple[str, ...]
    gan_batch: int
    replica_steps: int
    lqg: tuple[int, int]
    shared: tuple[int, int, int]


FULL = Size(
    name="laptop",
    pixels=28,
    batch=128,
    quadratics=128,
    steps=20,
    matrix=1024,
    steps_of={
        "step of 16 thousand": ((15_910,),),
        "step of 16 thousand in 4 tensors": ((20, 784), (20,), (10, 20), (10,)),
        "step of a million": ((1_050_624,),),
        "step of a million in 6 tensors": ((800, 784), (800,), (500, 800), (500,), (10, 500), (10,)),
    },
    step_scaling=(100, 1_000, 10_000, 100_000, 1_000_000, 10_000_000),
    window_scaling=(100, 1_000, 10_000, 100_000, 1_000_000),
    window_limit=100_000,
    lengths=(5, 10, 20, 50, 100),
    rounds=9,
    scaling_rounds=3,
    turn=0.1,
    compile=True,
    jax=("MLP-orig", "128 quadratics", "1 quadratic", "convolutional net"),
    memory=("L2O-DM", "RNNprop"),
    gan_batch=64,
    replica_steps=100,
    lqg=(77, 400),
    shared=(2, 3, 8),
)

QUICK = Size(
    name="smoke",
    pixels=8,
    batch=4,
    quadratics=3,
    steps=3,
    matrix=64,
    steps_of={
        "step of 16 thousand": ((300,),),
        "step of 16 thousand in 4 tensors": ((10, 20), (10,)),
        "step of a million": ((9_000,),),
        "step of a million in 6 tensors": ((30, 30), (30,)),
    },
    step_scaling=(100, 1_000),
    window_scaling=(100, 300),
    window_limit=100,
    lengths=(2, 4),
    rounds=2,
    scaling_rounds=2,
    turn=0.0,
    compile=False,
    jax=("1 quadratic",),
    memory=("L2O-DM",),
    gan_batch=4,
    replica_steps=3,
    lqg=(5, 4),
    shared=(1, 2, 2),
)


class Bowl(TaskFamily):
    """f(x) = sum_i a_i x_i^2 / 2 with a_i in [0.5, 1.5): costs nothing beside the optimizer, at any size."""

    def __init__(self, dimensions: int) -> None:
        self.name = f"bowl-{dimensions}d"
        self.dimensions = dimensions

    def sample(self, rng: Stream) -> Tree:
        return {"curvature": rng.uniform((self.dimensions,), low=0.5, high=1.5)}

    def init(self, instance: Tree, rng: Stream) -> Tree:
        return {"x": rng.normal((self.dimensions,))}

    def loss(self, params: Tree, instance: Tree, batch: Tree) -> Tensor:
        return (instance["curvature"] * params["x"].square()).sum() / 2

    def value_and_grad(self, params: Tree, instance: Tree, batch: Tree) -> tuple[Tensor, Tree]:
        x = params["x"].detach()
        grad = instance["curvature"] * x
        return (grad * x).sum(1) / 2, {"x": grad}


def perceptron(size: Size) -> MLPClassifier:
    """MLP-orig: 784-20-10 with sigmoids, 15,910 coordinates."""
    labels = torch.arange(EXAMPLES) % 10
    return MLPClassifier(Dataset("noise", _noise(size), labels, classes=10, complete=True, note=""), batch=size.batch)


def convolutional(size: Size) -> ModuleTask:
    """Two 3x3 convolutions of stride 2 with 8 and 16 channels, and a linear layer: 9,098 coordinates."""
    data = (_noise(size)[:, None], torch.arange(EXAMPLES) % 10)
    side = size.pixels // 4

    def network() -> nn.Module:
        first, second = nn.Conv2d(1, 8, 3, stride=2, padding=1), nn.Conv2d(8, 16, 3, stride=2, padding=1)
        return nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), nn.Flatten(), nn.Linear(16 * side**2, 10))

    return ModuleTask(network, nn.functional.cross_entropy, data, batch=size.batch, name="convolutional")


FAMILIES: dict[str, Callable[[Size], TaskFamily]] = {
    "MLP-orig": perceptron,
    "quadratics": lambda _: Quadratics(),
    "convolutional net": convolutional,
}


@dataclass(frozen=True)
class Workload:
    """Optimizees at their start.

    Args:
        family: name in `FAMILIES`, or "bowl".
        tasks: in the batch.
        dimensions: of a bowl.
    """

    family: str
    tasks: int = 1
    dimensions: int = 0

    def process(self, size: Size) -> Optimizee:
        family = Bowl(self.dimensions) if self.family == "bowl" else FAMILIES[self.family](size)
        return Optimizee.start(family, Stream(0, tasks=range(self.tasks)))

    def start(self, optimizer: LearnedOptimizer, size: Size) -> Trajectory:
        return MetaLoss().begin(optimizer, self.process(size), Stream(0))

    def coordinates(self, size: Size) -> int:
        """Of all tasks together."""
        return sum(leaf.numel() for leaf in self.process(size).params.values())


def _noise(size: Size) -> Tensor:
    return Stream(0, ("pixels",)).integers(256, (EXAMPLES, size.pixels, size.pixels))[0].to(torch.uint8)
