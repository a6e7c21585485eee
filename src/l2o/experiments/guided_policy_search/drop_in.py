"""The shipped policy in an ordinary PyTorch loop, on a network and data that its meta-training did not have.

The weights were meta-trained on a 48-48-10 network on projected MNIST; here they train a 100-200-10 network on images
of Fashion-MNIST, averaged to 10 x 10 pixels and standardised, through `l2o.load(...).as_torch(...)`.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from l2o.evaluation.dots import plot_bands
from l2o.evaluation.results import Shown, Tabled
from l2o.evaluation.statistics import Array, crossed_bootstrap
from l2o.evaluation.tables import in_words
from l2o.evaluation.verdicts import Verdict
from l2o.experiments.study import Study
from l2o.kernels.select import backends_in_words
from l2o.optimizers.architectures import load
from l2o.tasks.data import load_dataset
from l2o.weights import load_card

WEIGHTS = "predicted-step-mnist"
"""The shipped weights that the verdict is about, named before the run."""

BATCH = 64
SIDE = 10
HIDDEN = 200
WIDENINGS = 4
"""Learning rates that may be added where the best one is the grid's smallest or largest."""

_OTHER_STARTS = 1_000_000

Make = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]


@dataclass(frozen=True)
class Settings:
    """A preset of this experiment.

    Args:
        data: data set.
        steps: of a run.
        every: the objective is recorded at every so-many-th step.
        shown: training examples that the objective is a mean over, the first ones.
        runs: fresh starts that are reported on.
        tuning_runs: other starts that learning rates are tuned on, by the objective after the last step.
        rates: learning rates of SGD and Adam to begin with, ascending; the grid grows while its edge is best.
        multipliers: of the policy's updates, tuned in the same way; the verdict is about 1 alone.
    """

    data: str = "fashion-mnist"
    steps: int = 400
    every: int = 10
    shown: int = 10_000
    runs: int = 5
    tuning_runs: int = 3
    rates: tuple[float, ...] = tuple(10 ** (i / 2 - 3) for i in range(9))
    multipliers: tuple[float, ...] = (0.25, 0.5, 1.0, 2.0)


PRESETS = {
    "smoke": Settings(
        data="digits",
        steps=20,
        every=5,
        shown=200,
        runs=2,
        tuning_runs=1,
        rates=(0.01, 0.1, 1.0),
        multipliers=(0.5, 1.0),
    ),
    "laptop": Settings(),
    "paper": Settings(runs=20),
}


@dataclass(frozen=True)
class _Loop:
    """An ordinary training loop.

    Args:
        inputs: `[examples, pixels]`.
        labels: `[examples]`.
        classes: how many there are.
        settings: of the preset.
    """

    inputs: Tensor
    labels: Tensor
    classes: int
    settings: Settings

    def run(self, make: Make, seed: int) -> list[float]:
        """The objective at every so-many-th step, held at ten times its start once it is worse or not a number."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = nn.Sequential(nn.Linear(self.inputs.shape[1], HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, self.classes))
            optimizer = make(model.parameters())
            shown = slice(self.settings.shown)
            found: list[float] = []
            for step in range(self.settings.steps + 1):
                if step % self.settings.every == 0:
                    with torch.no_grad():
                        value = nn.functional.cross_entropy(model(self.inputs[shown]), self.labels[shown]).item()
                    found.append(value)
                    if not value <= 10 * found[0]:
                        break
                if step < self.settings.steps:
                    batch = torch.randint(len(self.inputs), (BATCH,))

                    def closure(batch: Tensor = batch) -> float:
                        optimizer.zero_grad()
                        loss = nn.functional.cross_entropy(model(self.inputs[batch]), self.labels[batch])
                        loss.backward()
                        return loss.item()

                    optimizer.step(closure)
        points = 1 + self.settings.steps // self.settings.every
        diverged = not found[-1] <= 10 * found[0]
        return found if not diverged else [*found[:-1], *[10 * found[0]] * (points - len(found) + 1)]

    def runs(self, make: Make, seeds: Iterable[int]) -> Array:
        """`[runs, points]`."""
        return np.array([self.run(make, seed) for seed in seeds])


def run(preset: str, results: Path, work: Path) -> None:
    """Runs the preset and writes its results."""
    begin = time.perf_counter()
    settings = PRESETS[preset]
    study = Study.of("guided-policy-search/drop-in", preset, results, work, settings)
    train = load_dataset(settings.data, "train")
    study.data += [train.note]
    loop = _Loop(_standardised(train.inputs), train.labels, train.classes, settings)
    rule = load(WEIGHTS)
    kinds: dict[str, tuple[Callable[[float], Make], Sequence[float]]] = {
        "SGD": (lambda rate: lambda params: torch.optim.SGD(params, lr=rate), settings.rates),
        "Adam": (lambda rate: lambda params: torch.optim.Adam(params, lr=rate), settings.rates),
        "policy, tuned": (lambda factor: lambda params: rule.as_torch(params, lr=factor), settings.multipliers),
    }
    best = {name: _tuned(loop, *kind) for name, kind in kinds.items()}
    seeds = range(settings.runs)
    curves = {f"{name}: {value:.4g}": loop.runs(kinds[name][0](value), seeds) for name, value in best.items()}
    policy, sgd = loop.runs(rule.as_torch, seeds), next(iter(curves.values()))
    shown = {"policy": policy, **curves}
    title = f"A {SIDE * SIDE}-{HIDDEN}-{train.classes} network on {settings.data}, in an ordinary loop"
    points = settings.every * np.arange(policy.shape[1])
    plot_bands(
        {
            name: {float(step): crossed_bootstrap(found[None, :, place]) for place, step in enumerate(points)}
            for name, found in shown.items()
        },
        path=study.folder / "figure.png",
        title=title,
        xlabel="step",
        ylabel="objective on training examples",
        xscale="linear",
        yscale="log",
    )
    study.figures.append(Shown("figure.png", title, f"{title}: objective against steps, with 95 % intervals."))
    rows: list[dict[str, str | float | None]] = [
        {
            "optimizer": name,
            f"at step {settings.steps}": in_words(crossed_bootstrap(found[None, :, -1])),
            "mean over steps": in_words(crossed_bootstrap(found.mean(1)[None])),
        }
        for name, found in sorted(shown.items(), key=lambda entry: float(entry[1][:, -1].mean()))
    ]
    study.tables.append(
        Tabled(
            "Objective",
            rows,
            f"Mean over {settings.shown:,} training examples; {settings.runs} starts. The number beside a name is its "
            f"learning rate, or what multiplies the policy's updates: best at step {settings.steps} on "
            f"{settings.tuning_runs} other starts.",
        )
    )
    study.backends.append(backends_in_words({"Predicted Step Descent": rule}))
    study.seconds = time.perf_counter() - begin
    study.finish(
        [_verdict(policy[:, -1], sgd[:, -1], settings)],
        summary=f"The shipped weights `{WEIGHTS}`, meta-trained on {load_card(WEIGHTS).training_tasks}, train another "
        f"network on other data for {settings.steps} steps through `l2o.load(...).as_torch(...)`.",
        seeds=seeds,
    )


def _standardised(images: Tensor) -> Tensor:
    """Images `[examples, side, side]` as `[examples, pixels]` of mean 0 and variance 1 over the examples."""
    small = nn.functional.adaptive_avg_pool2d(images[:, None].float(), SIDE).flatten(1)
    deviation, mean = torch.std_mean(small, dim=0)
    return (small - mean) / deviation.clamp(min=1e-3)


def _tuned(loop: _Loop, make: Callable[[float], Make], grid: Sequence[float]) -> float:
    """The value of the lowest objective after the last step; the grid grows while its edge is best."""
    seeds = range(_OTHER_STARTS, _OTHER_STARTS + loop.settings.tuning_runs)
    scores = {value: float(loop.runs(make(value), seeds)[:, -1].mean()) for value in grid}
    for _ in range(WIDENINGS):
        tried = sorted(scores)
        best = min(tried, key=lambda value: scores[value])
        if best not in (tried[0], tried[-1]):
            break
        beyond = best * (tried[1] / tried[0]) ** (1 if best == tried[-1] else -1)
        scores[beyond] = float(loop.runs(make(beyond), seeds)[:, -1].mean())
    return min(scores, key=lambda value: scores[value])


def _verdict(policy: Array, sgd: Array, settings: Settings) -> Verdict:
    interval = crossed_bootstrap(policy[None], sgd[None])
    return Verdict(
        claim="as a drop-in for a larger network on other data, the policy is below tuned SGD",
        criterion=f"95 % interval of the difference in the objective after step {settings.steps}, on the same starts, "
        "lies below 0; the policy's updates as they were meta-trained, SGD's learning rate tuned on this network",
        measured=interval.estimate,
        runs=settings.runs,
        passed=interval.high < 0,
        interval=(interval.low, interval.high),
    )
