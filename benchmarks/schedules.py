"""What schedules cost, as it is timed: following one in a GAN's loop, and many runs of a small problem as one batch."""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from benchmarks.timing import Call
from l2o.agent import Action
from l2o.optimizers.handcrafted import Adam
from l2o.processes.live_loop import LiveLoop
from l2o.processes.replicated_losses import ReplicatedLosses, Settings
from l2o.rng import Stream
from l2o.schedules.base import Schedule
from l2o.schedules.controllers import Controller
from l2o.schedules.features import PaperGANFeatures
from l2o.schedules.fixed import InTurn
from l2o.schedules.follow import Follower, follow
from l2o.tasks.alternate import Choice
from l2o.tasks.regression import QuadraticRegression
from l2o.trees import Tree

PLAYERS = ("generator", "discriminator")
LATENT, FILTERS, SIDE = 64, 16, 14
_MANY = 10**9


class Consulted(Schedule):
    """Asks a controller and takes turns all the same, so that every way does the same work."""

    name = "consulted"

    def __init__(self) -> None:
        super().__init__(2)
        self.controller, self.turns = Controller(PaperGANFeatures(), 2, hidden=[16]), InTurn([0, 1])

    @property
    def measures(self) -> tuple[str, ...]:
        return self.controller.measures

    def config(self) -> dict[str, object]:
        return {}

    def begin(self, tasks: int) -> Tree:
        return {**self.controller.begin(tasks), **self.turns.begin(tasks)}

    def forward(self, observation: Tree, state: Tree) -> tuple[Action, Tree]:
        _, seen = self.controller(observation, {"tasks": state["tasks"]})
        action, place = self.turns(observation, {"place": state["place"]})
        return action, {**seen, **place}


def gan_steps(way: Literal["plain", "observed", "in turn", "learned"], batch: int) -> Call:
    """A step of the generator and one of the discriminator, of 14x14 images by one convolution each."""
    torch.manual_seed(0)
    inner = SIDE // 2
    generator = nn.Sequential(
        nn.Linear(LATENT, FILTERS * inner**2),
        nn.ReLU(),
        nn.Unflatten(1, (FILTERS, inner, inner)),
        nn.ConvTranspose2d(FILTERS, 1, 5, stride=2, padding=2, output_padding=1),
        nn.Tanh(),
    )
    discriminator = nn.Sequential(
        nn.Conv2d(1, FILTERS, 5, stride=2, padding=2),
        nn.LeakyReLU(0.2),
        nn.Flatten(),
        nn.Linear(FILTERS * inner**2, 1),
    )
    networks = dict(zip(PLAYERS, (generator, discriminator), strict=True))
    optimizers = {name: torch.optim.Adam(net.parameters(), 5e-4, betas=(0.5, 0.999)) for name, net in networks.items()}
    images = 2 * torch.rand(1000, 1, SIDE, SIDE) - 1

    def loss_of(name: str) -> Tensor:
        made = generator(torch.randn(batch, LATENT))
        if name == "generator":
            return softplus(-discriminator(made)).mean()
        real = images[torch.randint(len(images), (batch,))]
        return (softplus(-discriminator(real)).mean() + softplus(discriminator(made.detach())).mean()) / 2

    def backward(name: str) -> Tensor:
        optimizers[name].zero_grad()
        loss = loss_of(name)
        loss.backward()
        return loss

    def plain() -> None:
        for name in PLAYERS:
            backward(name)
            optimizers[name].step()

    def observed(loop: LiveLoop) -> Callable[[], None]:
        def run() -> None:
            for number, name in enumerate(PLAYERS):
                loop.begin(number)
                loss = backward(name)
                loop.took({name: loss})
                optimizers[name].step()

        return run

    def followed(follower: Follower) -> Callable[[], None]:
        follower.measure({name: loss_of(name) for name in PLAYERS})
        follower.validated({"inception_score": 1.0, "discriminator_error": 0.5})

        def run() -> None:
            for _ in PLAYERS:
                name = follower.choose()
                loss = backward(name)
                follower.took({name: loss})
                optimizers[name].step()

        return run

    if way == "plain":
        return Call(plain, "torch")
    groups = {name: tuple(network.parameters()) for name, network in networks.items()}
    if way == "observed":
        alone = [Choice(name, ((name, name),)) for name in PLAYERS]
        return Call(observed(LiveLoop(alone, groups, steps=_MANY)), "torch")
    schedule = InTurn([0, 1]) if way == "in turn" else Consulted()
    return Call(followed(follow(schedule, choices=PLAYERS, groups=groups, steps=_MANY)), "torch")


def replicas(runs: int, steps: int) -> Call:
    """Some steps of so many runs of the published regression as one batch, each with decisions of its own."""
    rng = Stream(0, tasks=range(runs))
    settings = Settings({"model": Adam(0.01)}, validate_every=steps)
    start = ReplicatedLosses.start(QuadraticRegression(), settings, rng, steps=steps)
    choices = rng.child("choices").integers(2, (steps,))  # [runs, steps]

    def run() -> None:
        process = start
        for step in range(steps):
            process = process.apply({"choice": choices[:, step]})

    return Call(run, "torch")
