"""A shipped optimizer in an ordinary PyTorch loop, on a model and data that no task of the package knows.

Source: "Optimizers cubed" wants an optimizer "that would work on any dataset without modification". Here the weights
that were meta-trained for 100 steps of a small perceptron on MNIST train a convolutional network on Fashion-MNIST for
1,000.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from l2o.curves import Curves
from l2o.evaluation.compare import Comparison
from l2o.evaluation.plots import plot_curves
from l2o.evaluation.results import Compared, Shown
from l2o.evaluation.statistics import bootstrap
from l2o.evaluation.verdicts import Verdict
from l2o.experiments.study import Study
from l2o.kernels.select import backends_in_words
from l2o.optimizers.architectures import load
from l2o.tasks.data import Dataset, load_dataset
from l2o.weights import load_card

WEIGHTS = "rnnprop-mnist"
"""The shipped weights that the verdict is about, named before the run."""

ACCURACY = 0.80
"""The test accuracy that must be reached."""

Make = Callable[[Iterator[nn.Parameter]], torch.optim.Optimizer]


@dataclass(frozen=True)
class Settings:
    """A preset of this experiment.

    Args:
        data: data set.
        steps: steps of a run.
        runs: fresh starts that are reported on.
        rates: learning rates of Adam, the best by training loss on one other start.
        multipliers: multipliers of the learned optimizer's updates, chosen in the same way; 1 is reported in any case.
        last: losses at the end of a run that are averaged.
    """

    data: str = "fashion-mnist"
    steps: int = 1000
    runs: int = 5
    rates: tuple[float, ...] = (2**-11, 2**-10, 2**-9, 2**-8, 2**-7, 2**-6, 2**-5)
    multipliers: tuple[float, ...] = (2.0, 1.0, 0.5, 0.25, 0.125, 0.0625, 0.03125)
    last: int = 50


PRESETS = {
    "smoke": Settings(data="digits", steps=40, runs=2, rates=(2**-9, 2**-6), multipliers=(1.0, 0.25), last=10),
    "laptop": Settings(),
    "paper": Settings(runs=20),
}


def run(preset: str, results: Path, work: Path) -> None:
    """Runs the preset and writes its results."""
    begin = time.perf_counter()
    settings = PRESETS[preset]
    study = Study.of("optimizers-cubed/drop-in", preset, results, work, settings)
    train, test = load_dataset(settings.data, "train"), load_dataset(settings.data, "test")
    study.data += [train.note, test.note]
    rule = load(WEIGHTS)
    rule.horizon = None  # running ten times past the horizon is the point here: no warning

    def adam(rate: float) -> Make:
        return lambda params: torch.optim.Adam(params, lr=rate)

    def learned(multiplier: float) -> Make:
        return lambda params: rule.as_torch(params, lr=multiplier)

    def tuned(make: Callable[[float], Make], values: tuple[float, ...]) -> float:
        ends = {v: _train(make(v), train, test, 1_000_000, settings.steps)[0][-settings.last :].mean() for v in values}
        return min(ends, key=lambda value: float(torch.nan_to_num(ends[value], torch.inf)))

    rate, multiplier = tuned(adam, settings.rates), tuned(learned, settings.multipliers)
    makes = {
        "RNNprop": learned(1.0),
        f"RNNprop, lr {multiplier:g} tuned": learned(multiplier),
        f"Adam, lr {rate:.3g} tuned": adam(rate),
    }
    curves = {name: _curves(make, train, test, settings) for name, make in makes.items()}
    title = f"A small convolutional network on {settings.data}"
    comparison = Comparison(curves, title, settings.last)
    comparison.save(study.folder / "curves.npz")
    plot_curves(
        comparison.losses,
        path=study.folder / "curves.png",
        title=title,
        ylabel="training loss",
        learned=list(makes)[:2],
        block=max(1, settings.steps // 100),
    )
    study.figures.append(Shown("curves.png", title, "Mean training loss against step with its 95 % interval."))
    study.backends.append(backends_in_words({"RNNprop": rule}))
    study.comparisons.append(Compared("curves.npz", title, {}))
    study.seconds = time.perf_counter() - begin
    study.finish(
        [_verdict(name, curves[name], settings) for name in list(makes)[:2]],
        summary=f"The shipped weights `{WEIGHTS}`, meta-trained on {load_card(WEIGHTS).training_tasks} for "
        f"{load_card(WEIGHTS).horizon} steps, train another network on another data set for {settings.steps} steps "
        "through `l2o.load(...).as_torch(...)`.",
        seeds=range(settings.runs),
    )


def _network(images: Tensor, classes: int) -> nn.Module:
    side = -(-images.shape[-1] // 4)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(16 * side * side, classes),
    )


def _train(make: Make, train: Dataset, test: Dataset, seed: int, steps: int) -> tuple[Tensor, float]:
    """An ordinary training loop: losses `[steps]` and test accuracy."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = _network(train.inputs, train.classes)
        optimizer = make(model.parameters())
        losses = torch.full((steps,), torch.nan, dtype=torch.float64)
        for step in range(steps):
            batch = torch.randint(len(train.inputs), (128,))
            loss = nn.functional.cross_entropy(model(train.inputs[batch, None] / 255), train.labels[batch])
            losses[step] = loss.item()
            if not torch.isfinite(loss):
                break
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            guesses = model(test.inputs[:, None] / 255).argmax(1)
    return losses, float((guesses == test.labels).double().mean())


def _curves(make: Make, train: Dataset, test: Dataset, settings: Settings) -> Curves:
    begin = time.perf_counter()
    runs = [_train(make, train, test, seed, settings.steps) for seed in range(settings.runs)]
    optimizer = make(_network(train.inputs, train.classes).parameters())
    for group in optimizer.param_groups:
        for p in group["params"]:
            p.grad = torch.zeros_like(p)
    optimizer.step()
    leaves = [leaf for state in optimizer.state.values() for leaf in state.values()]
    return Curves(
        losses=torch.stack([losses for losses, _ in runs]),
        metrics={"test_accuracy": torch.tensor([accuracy for _, accuracy in runs], dtype=torch.float64)},
        evaluations=settings.steps,
        seconds_per_step=(time.perf_counter() - begin) / (settings.steps * settings.runs),
        state_bytes=sum(leaf.numel() * leaf.element_size() for leaf in leaves),
    )


def _verdict(name: str, curves: Curves, settings: Settings) -> Verdict:
    accuracy = bootstrap(curves.metrics["test_accuracy"].numpy())
    return Verdict(
        claim=f"{name} reaches {ACCURACY:.0%} test accuracy in {settings.steps} steps",
        criterion=f"mean test accuracy over {settings.runs} fresh starts is at least {ACCURACY}",
        measured=accuracy.estimate,
        runs=settings.runs,
        passed=accuracy.estimate >= ACCURACY,
        interval=(accuracy.low, accuracy.high),
    )
