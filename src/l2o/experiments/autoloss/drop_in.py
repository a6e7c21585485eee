"""A schedule of one GAN guides another one in a plain PyTorch loop, through the drop-in alone.

The schedules are trained on perceptrons for 8x8 digits; here they guide convolutional networks on MNIST at 14x14, which
share no code with the library: modules, optimizers and the loop are plain PyTorch.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from l2o.evaluation.dots import plot_bands
from l2o.evaluation.results import Shown, Tabled
from l2o.evaluation.statistics import Array, Interval, bootstrap, paired_bootstrap
from l2o.evaluation.verdicts import Verdict
from l2o.experiments.autoloss.gan import STEPS
from l2o.experiments.autoloss.problems import players
from l2o.experiments.autoloss.trials import Trials
from l2o.experiments.study import Study
from l2o.schedules.base import Schedule
from l2o.schedules.fixed import InTurn
from l2o.schedules.follow import follow
from l2o.sweeps import run_all
from l2o.tasks.score_network import ScoreNetwork, load_score_network
from l2o.tasks.score_training import score_data
from l2o.tasks.scores import inception_score

GUIDED, EVEN, UNTRAINED = "schedule of the digits", "1:1", "untrained controller"


@dataclass(frozen=True)
class Settings:
    """A preset of this experiment.

    Args:
        steps: updates of either network.
        every: steps between validations.
        seeds: of starts, minibatches and decisions.
        samples: generated images of a validation.
        batch: images of an update.
    """

    steps: int
    every: int
    seeds: tuple[int, ...]
    samples: int
    batch: int = 64


PRESETS = {
    "smoke": Settings(12, 6, (1, 2), 32, batch=8),
    "laptop": Settings(4_000, 250, (1, 2, 3, 4, 5), 1_000),
    "paper": Settings(20_000, 500, tuple(range(1, 11)), 5_000),
}


def run(preset: str, results: Path, work: Path) -> None:
    """Runs the preset and writes its results."""
    settings, trials, source = PRESETS[preset], Trials(preset, results, work), players(preset)
    begin = time.perf_counter()
    study = Study.of("autoloss/drop-in", preset, results, work, settings)
    data, judge = score_data("mnist-grey-14x14", "train"), load_score_network("mnist-grey-14x14")
    images = (data.inputs.float() / 127.5 - 1)[:, None]  # [images, 1, 14, 14] in [-1, 1]
    count = len(source.seeds)
    schedules: dict[str, Callable[[int], Schedule]] = {
        GUIDED: lambda seed: trials.trained(source, 1 + seed % count),
        UNTRAINED: lambda seed: source.controller(seed),
        EVEN: lambda seed: InTurn([0, 1]),
    }
    curves: dict[str, Array] = {}
    shares: dict[str, float] = {}
    for name, schedule in schedules.items():
        made = {seed: schedule(seed) for seed in settings.seeds}
        calls = {
            f"{name}, seed {seed}": partial(train, made[seed], images, judge, settings, seed) for seed in settings.seeds
        }
        with study.console.status(name):
            rows, taken = zip(*run_all(calls, title=name).values(), strict=True)
        curves[name], shares[name] = np.array(rows), float(np.mean(taken))
    best = {name: rows.max(1) for name, rows in curves.items()}  # [seeds]
    title = "A schedule of 8x8 digits guides a GAN on 14x14 MNIST"
    plot_bands(
        {name: _against_steps(rows, settings.every) for name, rows in curves.items()},
        path=study.folder / "figure.png",
        title=title,
        xlabel=STEPS,
        ylabel="inception score",
        xscale="linear",
    )
    study.figures.append(Shown("figure.png", title, "Inception score against steps under three schedules."))
    table: list[dict[str, str | float | None]] = [
        {
            "schedule": name,
            "best inception score": f"{bootstrap(values).estimate:.2f}",
            "each seed": ", ".join(f"{value:.2f}" for value in values),
            "share of generator": f"{shares[name]:.2f}",
        }
        for name, values in best.items()
    ]
    note = f"{len(settings.seeds)} seeds, each with another of {count} trained schedules. Judged by {judge.name}."
    study.tables.append(Tabled("Schedules", table, note))
    verdicts = []
    for other in (EVEN, UNTRAINED):
        interval = paired_bootstrap(best[GUIDED], best[other])
        verdicts.append(
            Verdict(
                claim=f"guided through the drop-in, a GAN is at least as good as under {other}",
                criterion="mean paired difference of the best inception scores over all seeds at least 0",
                measured=interval.estimate,
                runs=len(settings.seeds),
                passed=interval.estimate >= 0,
                interval=(interval.low, interval.high),
            )
        )
    study.data.append(data.note)
    study.seconds = time.perf_counter() - begin
    study.finish(
        verdicts,
        summary="Schedules that were trained on a GAN of perceptrons for 8x8 digits guide convolutional networks on "
        "14x14 MNIST in a plain PyTorch loop.",
        seeds=list(settings.seeds),
    )


def train(
    schedule: Schedule, images: Tensor, judge: ScoreNetwork, settings: Settings, seed: int
) -> tuple[list[float], float]:
    """A GAN in plain PyTorch under a schedule.

    Args:
        schedule: choice 0 is an update of the generator, choice 1 of the discriminator.
        images: `[images, 1, 14, 14]` in [-1, 1].
        judge: scores the generated images.
        settings: how long.
        seed: of everything.

    Returns:
        The inception score at each validation, the first at the start, and the share of generator updates.
    """
    draw = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        networks = {"generator": _generator(), "discriminator": _discriminator()}
        for module in networks.values():
            module.apply(_small_weights)
    generator, discriminator = networks.values()
    optimizers = {
        name: torch.optim.Adam(module.parameters(), lr=5e-4, betas=(0.5, 0.999)) for name, module in networks.items()
    }

    def losses(name: str) -> Tensor:
        fake = generator(torch.randn(settings.batch, 64, generator=draw))
        if name == "generator":
            return softplus(-discriminator(fake)).mean()
        real = images[torch.randint(len(images), (settings.batch,), generator=draw)]
        return (softplus(-discriminator(real)).mean() + softplus(discriminator(fake.detach())).mean()) / 2

    noise = torch.randn(settings.samples, 64, generator=torch.Generator().manual_seed(10_000 + seed))

    @torch.no_grad()
    def score() -> float:
        return float(inception_score(judge.outputs((generator(noise) + 1) / 2)[0], splits=1))

    follower = follow(
        schedule,
        choices=tuple(networks),
        groups={name: module.parameters() for name, module in networks.items()},
        steps=settings.steps,
        seed=seed,
    )
    follower.measure({name: losses(name) for name in networks})
    scores = [score()]
    follower.validated({"inception_score": scores[0]})
    for step in range(1, settings.steps + 1):
        name = follower.choose()
        loss = losses(name)
        optimizers[name].zero_grad()
        loss.backward()
        follower.took({name: loss})
        optimizers[name].step()
        if step % settings.every == 0:
            scores.append(score())
            follower.validated({"inception_score": scores[-1]})
    return scores, float((follower.decisions == 0).double().mean())


def _generator() -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(64, 32 * 7 * 7),
        nn.ReLU(),
        nn.Unflatten(1, (32, 7, 7)),
        nn.ConvTranspose2d(32, 1, 4, stride=2, padding=1),
        nn.Tanh(),
    )


def _discriminator() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 32, 4, stride=2, padding=1), nn.LeakyReLU(0.2), nn.Flatten(), nn.Linear(32 * 7 * 7, 1)
    )


def _small_weights(module: nn.Module) -> None:
    """N(0, 0.02^2), biases 0, as for DCGAN."""
    for name, parameter in module.named_parameters(recurse=False):
        if name == "bias":
            nn.init.zeros_(parameter)
        else:
            nn.init.normal_(parameter, 0.0, 0.02)


def _against_steps(rows: Array, every: int) -> dict[float, Interval]:
    return {float(place * every): bootstrap(rows[:, place], resamples=500) for place in range(rows.shape[1])}
