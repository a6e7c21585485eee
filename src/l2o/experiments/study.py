"""What every experiment does alike: train resumably, tune baselines, compare, write results that explain themselves."""

import dataclasses
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from l2o.errors import InterruptedRunError
from l2o.evaluation.compare import Comparison, compare
from l2o.evaluation.plots import plot_curves, plot_meta_training, plot_tuning
from l2o.evaluation.results import Compared, Description, Shown, Tabled, render, write_description
from l2o.evaluation.statistics import Metric
from l2o.evaluation.tuning import Rule, Tuning, log_grid, tune_all
from l2o.evaluation.verdicts import Verdict, write_verdicts
from l2o.kernels.select import backends_in_words
from l2o.metatrain import MetaTrained, metatrain
from l2o.methods.base import OptimizerMethod
from l2o.methods.meta_loss import Objective
from l2o.optimizers.architectures import load
from l2o.optimizers.base import LearnedOptimizer
from l2o.optimizers.handcrafted import SGD, Adam, Momentum, Nesterov, RMSprop
from l2o.outer_loop import Plan
from l2o.progress import ProgressBar
from l2o.provenance import machine, source_commit
from l2o.rng import Stream
from l2o.tasks.base import TaskFamily
from l2o.weights import load_card, save

METRICS: tuple[Metric, ...] = ("final", "area")
"""What baselines are tuned for, each with its own learning rate, and what verdicts compare."""

MEASURES: dict[Metric, str] = {"final": "loss at the last step", "area": "area under the ln-loss curve"}
"""The metrics in words."""

CLAIMS: dict[Metric, str] = {"final": "ends below", "area": "descends faster than"}
"""What it means to be better in a metric."""


@dataclass(frozen=True)
class Baseline:
    """A hand-designed rule and the learning rates it is tried with; the grid is widened while its edge is best."""

    rule: Rule
    grid: Sequence[float]


BASELINES: dict[str, Baseline] = {
    "SGD": Baseline(SGD, log_grid(2**-9, 2**2, per_octave=2)),
    "momentum": Baseline(Momentum, log_grid(2**-9, 2**2, per_octave=2)),
    "Nesterov": Baseline(Nesterov, log_grid(2**-9, 2**2, per_octave=2)),
    "RMSprop": Baseline(RMSprop, log_grid(2**-13, 2**-3, per_octave=2)),
    "Adam": Baseline(Adam, log_grid(2**-13, 2**-1, per_octave=2)),
}
"""The five baselines of "Optimizers cubed" and of Andrychowicz et al. 2016, on the usual grid, twice as dense."""


@dataclass
class Study:
    """One run of one experiment with one preset.

    Args:
        experiment: PAPER/EXPERIMENT.
        preset: "smoke", "laptop" or "paper".
        folder: where the results go.
        work: folder of checkpoints; may be deleted once the results are there.
        configuration: everything that was chosen, as JSON values.
        command: what makes these results again.
        console: where progress is told.
    """

    experiment: str
    preset: str
    folder: Path
    work: Path
    configuration: dict[str, Any]
    command: str
    console: Console = field(default_factory=Console)
    figures: list[Shown] = field(default_factory=list)
    comparisons: list[Compared] = field(default_factory=list)
    tables: list[Tabled] = field(default_factory=list)
    data: list[str] = field(default_factory=list)
    backends: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @classmethod
    def of(cls, experiment: str, preset: str, results: Path, work: Path, settings: Any) -> "Study":
        """An experiment's study: `experiment/preset` is made below `results` and below `work`."""
        return cls(
            experiment,
            preset,
            results / experiment / preset,
            work / experiment / preset,
            as_configuration(settings),
            command=f"l2o reproduce {experiment} --preset {preset}",
        )

    def train(
        self, name: str, optimizer: LearnedOptimizer, family: TaskFamily, method: OptimizerMethod, plan: Plan
    ) -> LearnedOptimizer:
        """Meta-trains, resuming if it was stopped before; saves weights, card, event log and a figure.

        Raises:
            InterruptedRunError: a signal stopped it; everything so far is checkpointed.
        """
        directory = self.work / name
        self.console.print(f"meta-training [bold]{name}[/] on {family.name}; checkpoints in {directory}")
        with ProgressBar(plan.trajectories, name, periods=len(plan.horizon.stages) > 1) as bar:
            trained = metatrain(optimizer, family, method, plan, directory=directory, listeners=[bar])
        if not trained.finished:
            raise InterruptedRunError(f"stopped; the same command goes on from {directory}")
        self.seconds += trained.seconds
        save(trained.optimizer, self.folder / "weights" / name, trained.card)
        path = self.folder / f"meta-training-{name}.png"
        draw_meta_training(trained, plan, log=directory / "events.jsonl", path=path)
        self.figures.append(
            Shown(
                path.name, f"Meta-training {name}", "Loss of the meta-training's trajectories, and of its validations."
            )
        )
        self._note(family)
        return trained.optimizer

    def trained(self, results: Path, name: str) -> LearnedOptimizer | None:
        """The weights that another experiment saved in its folder, or None."""
        path = results / "weights" / f"{name}.safetensors"
        if not path.exists():
            return None
        self.console.print(f"{name}: weights of {results} ({load_card(path).sha256[:12]})")
        return load(path)

    def tune(
        self, family: TaskFamily, rng: Stream, *, steps: int, last: int, title: str, every: int = 1
    ) -> dict[str, dict[Metric, Tuning]]:
        """Tunes every baseline for every metric on the tuning tasks of `rng`, on every so-many-th value of its grid."""
        begin = time.perf_counter()
        tunings: dict[str, dict[Metric, Tuning]] = {}
        for name, baseline in BASELINES.items():
            with self.console.status(f"tuning {name} on {family.name}"):
                tunings[name] = tune_all(
                    baseline.rule,
                    family,
                    rng,
                    steps=steps,
                    grid=baseline.grid[::every],
                    metrics=METRICS,
                    last=last,
                    directory=self.work / "kept",
                )
            best = ", ".join(f"{tuning.best:.4g} for {metric}" for metric, tuning in tunings[name].items())
            self.console.print(f"tuned {name}: learning rate {best}")
        for metric in METRICS:
            measure = MEASURES[metric]
            path = self.folder / f"tuning-{metric}-{slug(title)}.png"
            plot_tuning(
                {name: tuning[metric] for name, tuning in tunings.items()},
                path=path,
                title=f"{title}: tuning for {measure}",
                ylabel=measure,
                scale="log" if metric == "final" else "linear",
            )
            alternative = f"Score of every learning rate that was tried, the best marked: {measure}."
            self.figures.append(Shown(path.name, f"{title}: tuning for {measure}", alternative))
        self.seconds += time.perf_counter() - begin
        return tunings

    def compare(
        self,
        learned: Mapping[str, LearnedOptimizer],
        tunings: Mapping[str, Mapping[Metric, Tuning]],
        family: TaskFamily,
        rng: Stream,
        *,
        steps: int,
        last: int,
        title: str,
    ) -> Comparison:
        """Runs learned and tuned optimizers on the reporting tasks; draws the curves, makes the tables."""
        begin = time.perf_counter()
        optimizers: dict[str, LearnedOptimizer] = dict(learned)
        for name, by_metric in tunings.items():
            for metric in METRICS:
                optimizers[baseline_name(name, metric)] = BASELINES[name].rule(by_metric[metric].best)
        self.backends.append(backends_in_words(learned))
        with self.console.status(f"comparing on {title}"):
            comparison = compare(optimizers, family, rng, steps=steps, last=last, directory=self.work / "kept")
        file = slug(title)
        comparison.save(self.folder / f"curves-{file}.npz")
        shown = {n: losses for n, losses in comparison.losses.items() if n in learned or n.endswith("tuned for final")}
        path = self.folder / f"curves-{file}.png"
        plot_curves(shown, path=path, title=f"{title}: {comparison.runs} runs", learned=list(learned))
        alternative = (
            "Mean loss against step with its 95 % interval; learning rates tuned for the loss at the last step."
        )
        self.figures.insert(len(self.comparisons), Shown(path.name, title, alternative))
        flat = {
            baseline_name(name, metric): by_metric[metric] for name, by_metric in tunings.items() for metric in METRICS
        }
        self.comparisons.append(Compared(f"curves-{file}.npz", title, flat))
        self._note(family)
        self.seconds += time.perf_counter() - begin
        return comparison

    def contest(
        self,
        named: str,
        learned: Mapping[str, LearnedOptimizer],
        family: TaskFamily,
        seed: int,
        *,
        tuning_tasks: int,
        reporting_tasks: int,
        steps: int,
        last: int,
        every: int,
        title: str,
        metrics: Sequence[Metric] = METRICS,
        purpose: str = "",
    ) -> tuple[Comparison, list[Verdict]]:
        """Tunes all baselines, compares them with the learned optimizers on other tasks, and judges the one named.

        Args:
            named: the learned optimizer that the verdicts are about.
            learned: all learned optimizers, by name.
            family: where the tasks come from.
            seed: of tuning and reporting tasks, which are drawn from streams of their own.
            tuning_tasks: tasks that learning rates are tuned on.
            reporting_tasks: tasks that are reported on.
            steps: inner steps of a run.
            last: iterates at the end of a run whose mean loss is its final loss.
            every: learning rates are tuned on every so-many-th value of the grid.
            title: heading of figures and tables, and the end of every claim.
            metrics: what is judged.
            purpose: keeps the streams of several contests of one experiment apart.
        """
        names = (purpose,) if purpose else ()
        tuning = Stream(seed, ("tuning", *names), tasks=range(tuning_tasks))
        reporting = Stream(seed, ("reporting", *names), tasks=range(reporting_tasks))
        tunings = self.tune(family, tuning, steps=steps, last=last, title=title, every=every)
        comparison = self.compare(learned, tunings, family, reporting, steps=steps, last=last, title=title)
        verdicts = [
            below(comparison, named, name, metric, claim=f"{title}: {named} {CLAIMS[metric]} tuned {name}")
            for name in tunings
            for metric in metrics
        ]
        return comparison, verdicts

    def finish(self, verdicts: Sequence[Verdict], *, summary: str, seeds: Sequence[int]) -> None:
        """Writes config.json and verdict.json, makes README.md and report.html from the folder, and says where."""
        description = Description(
            experiment=self.experiment,
            preset=self.preset,
            summary=summary,
            command=self.command,
            configuration=self.configuration,
            data=self.data,
            backend="; ".join(dict.fromkeys(self.backends)),
            figures=self.figures,
            comparisons=self.comparisons,
            tables=self.tables,
        )
        write_description(self.folder, description)
        write_verdicts(
            self.folder / "verdict.json",
            verdicts,
            experiment=self.experiment,
            preset=self.preset,
            seeds=seeds,
            seconds=self.seconds,
            commit=source_commit(),
            machine=machine(),
        )
        report = render(self.folder)
        for verdict in verdicts:
            self.console.print(f"{'[green]passed' if verdict.passed else '[red]FAILED'}[/] {verdict.claim}")
        self.console.print(f"results in [bold]{self.folder}[/]; open {report}", soft_wrap=True)

    def _note(self, family: TaskFamily) -> None:
        self.data += [note for note in family.data_notes() if note not in self.data]


def below(comparison: Comparison, learned: str, baseline: str, metric: Metric, *, claim: str) -> Verdict:
    """Whether `learned` is below a baseline tuned for the metric, run by run."""
    interval = comparison.paired(metric, learned, baseline_name(baseline, metric))
    return Verdict(
        claim=claim,
        criterion=f"95 % bootstrap interval of the mean paired difference in {MEASURES[metric]} ({learned} minus "
        f"{baseline}, whose learning rate was tuned for this very measure) lies below 0",
        measured=interval.estimate,
        runs=comparison.runs,
        passed=interval.high < 0,
        interval=(interval.low, interval.high),
    )


def baseline_name(name: str, metric: Metric) -> str:
    """The name under which a baseline tuned for a metric is compared."""
    return f"{name}, tuned for {metric}"


def draw_meta_training(trained: MetaTrained, plan: Plan, *, log: Path, path: Path) -> None:
    """Draws a run's trajectories, from its event log, and its validations; logarithms of ratios as ratios."""
    ratios = plan.validation_measure == "log-ratio"
    label = "loss, mean over inner steps" + ("; validation: last by first, geometric mean" if ratios else "")
    plot_meta_training(
        logged_meta_losses(log, plan, _objective(trained.card.configuration["method"])),
        [(v.trajectory, math.exp(v.value) if ratios else v.value) for v in trained.validations],
        path=path,
        title=f"Meta-training {trained.optimizer.name} on {trained.card.training_tasks}",
        ylabel=label,
    )


def logged_meta_losses(log: Path, plan: Plan, objective: Objective) -> list[float]:
    """The mean inner loss of each trajectory, from an event log; not a number where it diverged or was imitated.

    For the objective "log" it is the geometric mean, so that both can be drawn beside losses. Of guided policy search
    it is the controllers' mean loss, not the policy's.
    """
    sums, points = [0.0] * plan.trajectories, [0] * plan.trajectories
    for event in map(json.loads, log.read_text(encoding="utf-8").splitlines()):
        if event["kind"] in ("window", "skipped") and event["moments"] == "meta-loss":
            value = event["meta_loss"]
            sums[int(event["trajectory"])] += float("nan") if value is None else value
            points[int(event["trajectory"])] += event["steps"] + 1
        elif event["kind"] == "window" and "value" in event:
            sums[int(event["trajectory"])], points[int(event["trajectory"])] = event["value"], 1
    means = [total / count if count else float("nan") for total, count in zip(sums, points, strict=True)]
    return means if objective == "loss" else [math.exp(mean) for mean in means]


def _objective(method: Mapping[str, Any]) -> Objective:
    """Of a method, or of the one that it is wrapped around; one that has none is about plain losses."""
    return (
        method["objective"] if "objective" in method else _objective(method["method"]) if "method" in method else "loss"
    )


def as_configuration(settings: Any) -> dict[str, Any]:
    """A dataclass of settings as JSON values."""
    return json.loads(json.dumps(dataclasses.asdict(settings)))


def slug(title: str) -> str:
    """A title as a part of a file's name: lower case, everything else than letters and digits as single hyphens."""
    return "-".join("".join(c if c.isalnum() else " " for c in title.lower()).split())


Experiment = Callable[[str, Path, Path], None]
"""Runs a preset: (preset, folder of the results, folder of the checkpoints)."""
