"""What the figures share: trained optimizers, tuned learning rates, long runs; each computed once and kept in a file.

Everything lies in `results/stronger-baselines/shared/PRESET`: `weights/NAME-SEED.safetensors` with its card and a
record of the meta-training, `runs/OPTIMIZEE/NAME-SEED.l2o`, `tuning/OPTIMIZEE/RULE.json`. What is there is not computed
again; long runs are, when the weights they were made with have changed, and learning rates, when runs, steps or grid
have. Weights of a recipe that has changed since stay: `Shared.departures` says in what. Checkpoints of meta-training
lie in the work folder.
"""

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from rich.console import Console

from l2o import checkpoint
from l2o.curves import run_curves
from l2o.errors import InterruptedRunError, InUseError
from l2o.evaluation.long_runs import LongRuns
from l2o.evaluation.results import tuning_from_json, tuning_to_json
from l2o.evaluation.tuning import Tuning, log_grid, tune
from l2o.experiments.stronger_baselines.optimizees import OPTIMIZEES
from l2o.experiments.stronger_baselines.recipes import Recipe, recipes
from l2o.experiments.study import Baseline, draw_meta_training
from l2o.kernels.select import backend_name
from l2o.metatrain import metatrain
from l2o.optimizers.architectures import load
from l2o.optimizers.base import LearnedOptimizer
from l2o.optimizers.handcrafted import SGD, Adam, RMSprop
from l2o.outer_loop import Plan
from l2o.progress import ProgressBar
from l2o.provenance import source_commit
from l2o.rng import Stream
from l2o.sweeps import run_all
from l2o.weights import Card, load_card, save

RULES: dict[str, Baseline] = {
    "Adam": Baseline(Adam, log_grid(2**-13, 2**-3)),
    "RMSprop": Baseline(RMSprop, log_grid(2**-13, 2**-3)),
    "SGD": Baseline(SGD, log_grid(2**-9, 2**2)),
}
"""The hand-designed optimizers of figure 7 and their grids of learning rates."""


_WAIT = 10.0
"""Seconds between two looks at whether another process has finished."""


@dataclass(frozen=True)
class Settings:
    """How long, how often, from which seeds.

    Args:
        seeds: meta-training seeds; every learned optimizer is meta-trained once from each.
        runs: fresh starts of every optimizer on every optimizee.
        block: steps of a block.
        tuning_runs: fresh starts that learning rates are tuned on, other ones than those reported.
        grid_every: learning rates are tuned on every so-many-th value of the grid at first.
        refinements: how often the grid is halved around its best value after that.
        seed: of reporting and tuning.
    """

    seeds: tuple[int, ...] = (1, 2, 3)
    runs: int = 3
    block: int = 100
    tuning_runs: int = 2
    grid_every: int = 2
    refinements: int = 1
    seed: int = 0


PRESETS = {
    "smoke": Settings(seeds=(1, 2), runs=2, block=5, tuning_runs=1, grid_every=5),
    "laptop": Settings(),
    "paper": Settings(runs=10, tuning_runs=3, grid_every=1),
}


@dataclass(frozen=True)
class Trained:
    """A record of one meta-training.

    Args:
        optimizer: the recipe's name.
        seed: meta-training seed.
        seconds: wall time.
        trajectories: that were trained on.
        windows: meta-updates, skipped ones included.
        training_steps: inner steps of all trajectories.
        validation_steps: inner steps of all validations.
        skipped: windows without a finite meta-gradient.
        validations: (trajectory, stage, steps, value) of each; no value where a task diverged.
        best: value of the best validation of the last stage, its baseline included; no value where a task diverged.
    """

    optimizer: str
    seed: int
    seconds: float
    trajectories: int
    windows: int
    training_steps: int
    validation_steps: int
    skipped: int
    validations: list[tuple[int, int, int, float | None]]
    best: float | None


class Shared:
    """The shared results of one preset.

    Args:
        preset: "smoke", "laptop" or "paper".
        results: folder of all results.
        work: folder of all checkpoints.
    """

    def __init__(self, preset: str, results: Path, work: Path, *, console: Console | None = None) -> None:
        self.preset, self.settings = preset, PRESETS[preset]
        self._results, self._work = results, work
        self.folder = results / "stronger-baselines" / "shared" / preset
        self.work = work / "stronger-baselines" / "shared" / preset
        self.console = console or Console()

    def __reduce__(self) -> tuple[Any, ...]:
        """Sent to a worker, it makes a console of its own there."""
        return Shared, (self.preset, self._results, self._work)

    def panel(self, optimizee: str, learned: Sequence[str], rules: Sequence[str] = ()) -> dict[str, LongRuns]:
        """The long runs of learned optimizers, one row for each meta-training seed, and of tuned hand-designed ones.

        What has to be trained, tuned and run for them is spread over the workers.
        """
        seeds = self.settings.seeds
        missing = [(name, seed) for name in learned for seed in seeds if not self._is_trained(name, seed)]
        run_all({f"{name}-{seed}": partial(self.train, name, seed) for name, seed in missing}, title="meta-training")
        calls: dict[str, Callable[[], LongRuns]] = {
            f"{name}-{seed}": partial(self._learned, name, seed, optimizee) for name in learned for seed in seeds
        }
        calls |= {rule: partial(self.tuned, rule, optimizee) for rule in rules}
        found = run_all(calls, title=f"runs on {optimizee}")
        rows = {name: LongRuns.stack([found[f"{name}-{seed}"] for seed in seeds]) for name in learned}
        return rows | {rule: found[rule] for rule in rules}

    @cached_property
    def recipes(self) -> Mapping[str, Recipe]:
        """All recipes by name."""
        return recipes(self.preset)

    def train(self, name: str, seed: int) -> LearnedOptimizer:
        """The optimizer of a recipe and a meta-training seed, meta-trained now if nobody has yet.

        While another process is at it, this one waits: several figures can be computed side by side.

        Raises:
            InterruptedRunError: a signal stopped it; everything so far is checkpointed.
        """
        path = self.folder / "weights" / f"{name}-{seed}.safetensors"
        while not self._is_trained(name, seed):
            try:
                self._train(name, seed, path)
            except InUseError as error:
                self.console.print(f"{name}, seed {seed}: {error}; waiting")
                time.sleep(_WAIT)
        return load(path)

    def _is_trained(self, name: str, seed: int) -> bool:
        path = self.folder / "weights" / f"{name}-{seed}.safetensors"
        return path.exists() and path.with_suffix(".json").exists()

    def _train(self, name: str, seed: int, path: Path) -> None:
        optimizer, method, plan = self.recipes[name].seeded(seed)
        family = self.recipes[name].family(self.preset)
        directory = self.work / f"{name}-{seed}"
        self.console.print(f"meta-training [bold]{name}[/], seed {seed}; checkpoints in {directory}")
        with ProgressBar(plan.trajectories, name, periods=len(plan.horizon.stages) > 1) as bar:
            found = metatrain(optimizer, family, method, plan, directory=directory, listeners=[bar])
        if not found.finished:
            raise InterruptedRunError(f"stopped; the same command goes on from {directory}")
        log = directory / "events.jsonl"
        draw_meta_training(found, plan, log=log, path=directory / "meta-training.png")
        save(found.optimizer, path, found.card)
        trajectories, windows, steps = _trained(log)
        record = Trained(
            optimizer=name,
            seed=seed,
            seconds=found.seconds,
            trajectories=trajectories,
            windows=windows,
            training_steps=steps,
            validation_steps=plan.validation_tasks * sum(entry.steps for entry in found.validations),
            skipped=found.skipped,
            validations=[
                (entry.trajectory, entry.stage, entry.steps, _finite(entry.value)) for entry in found.validations
            ],
            best=_finite(found.best.value),
        )
        checkpoint.write_json(path.with_suffix(".json"), asdict(record))

    def record(self, name: str, seed: int) -> Trained:
        """The record of a meta-training that is done."""
        content = json.loads((self.folder / "weights" / f"{name}-{seed}.json").read_text(encoding="utf-8"))
        return Trained(**{**content, "validations": [tuple(entry) for entry in content["validations"]]})

    def card(self, name: str, seed: int) -> Card:
        """The card of the weights of a meta-training that is done."""
        return load_card(self.folder / "weights" / f"{name}-{seed}.safetensors")

    def departures(self, name: str, seed: int) -> list[str]:
        """The settings in which a meta-training that is done differs from what its recipe says now; none as a rule.

        A setting that the card does not know, since it is younger, is left out.
        """
        optimizer, method, plan = self.recipes[name].seeded(seed)
        now = {"config": optimizer.config(), "method": method.describe(), "plan": asdict(plan)}
        kept = self.card(name, seed).configuration
        return _departures({part: kept[part] for part in now}, json.loads(json.dumps(now)))

    def plan(self, name: str) -> Plan:
        """The plan of a recipe."""
        return self.recipes[name].plan

    def learned(self, name: str, optimizee: str) -> LongRuns:
        """The long runs of a learned optimizer on an optimizee, one row for each meta-training seed."""
        return self.panel(optimizee, [name])[name]

    def tuning(self, rule: str, optimizee: str) -> tuple[Tuning, float]:
        """A hand-designed optimizer's learning rate, tuned for mean ln loss in the last block of a long run.

        Returns:
            The tuning, and how many seconds it took.
        """
        settings, tested, begin = self.settings, OPTIMIZEES[optimizee], time.perf_counter()
        steps, grid = tested.steps[self.preset], RULES[rule].grid[:: settings.grid_every]
        path = self.folder / "tuning" / _file(optimizee) / f"{rule}.json"
        if path.exists():
            content = json.loads(path.read_text(encoding="utf-8"))
            kept = tuning_from_json(content["tuning"])
            runs = settings.tuning_runs * len(kept.scores)
            if set(grid) <= set(kept.scores) and (kept.runs, kept.evaluations) == (runs, runs * (steps + 1)):
                return kept, content["seconds"]
        with self.console.status(f"tuning {rule} on {optimizee}"):
            tuning = tune(
                RULES[rule].rule,
                tested.family(self.preset),
                Stream(settings.seed, ("tuning", optimizee), tasks=range(settings.tuning_runs)),
                steps=steps,
                grid=grid,
                metric="log-final",
                last=settings.block,
                refinements=settings.refinements,
            )
        self.console.print(f"tuned {rule} on {optimizee}: learning rate {tuning.best:.4g}")
        seconds = time.perf_counter() - begin
        checkpoint.write_json(path, {"seconds": seconds, "tuning": tuning_to_json(tuning)})
        return tuning, seconds

    def tuned(self, rule: str, optimizee: str) -> LongRuns:
        """The long runs of a tuned hand-designed optimizer on an optimizee: a single row."""
        rate = self.tuning(rule, optimizee)[0].best
        optimizer = RULES[rule].rule(rate)
        return self.long_runs(optimizer, optimizee, name=rule, identity={"learning_rate": rate})

    def long_runs(
        self,
        optimizer: LearnedOptimizer,
        optimizee: str,
        *,
        name: str,
        identity: Mapping[str, Any],
        steps: int | None = None,
        runs: int | None = None,
    ) -> LongRuns:
        """Long runs of any optimizer on an optimizee: one row, computed now unless a file has it.

        Args:
            optimizer: what is run.
            optimizee: by name.
            name: of the file.
            identity: what the file must say about where it comes from, or it is computed anew.
            steps: inner steps of a run; by default those of the optimizee.
            runs: fresh starts; by default those of the preset.
        """
        settings, tested = self.settings, OPTIMIZEES[optimizee]
        steps, runs = steps or tested.steps[self.preset], runs or settings.runs
        family, begin = tested.family(self.preset), time.perf_counter()
        identity = {**identity, "family": family.name}
        path = self.folder / "runs" / _file(optimizee) / f"{name}.l2o"
        if path.exists():
            kept = LongRuns.load(path)
            same = all(kept.about[0].get(key) == value for key, value in identity.items())
            if same and (kept.steps, kept.runs, kept.block) == (steps, runs, settings.block):
                return kept
        stream = Stream(settings.seed, ("reporting", optimizee), tasks=range(runs))
        with self.console.status(f"{name} on {optimizee}"):
            curves = run_curves(optimizer, family, stream, steps=steps)
        about = {
            **identity,
            "optimizer": name,
            "seed": settings.seed,
            "data": family.data_notes(),
            "seconds": time.perf_counter() - begin,
            "backend": backend_name(optimizer, "cpu"),
            "commit": source_commit(),
        }
        found = LongRuns.of(curves, block=settings.block, about=about)
        found.save(path)
        self.console.print(f"{name} on {optimizee}: ln loss {found.final().mean():.3g} in the last block")
        return found

    def _learned(self, name: str, seed: int, optimizee: str) -> LongRuns:
        optimizer = self.train(name, seed)
        identity = {"weights": self.card(name, seed).sha256}
        return self.long_runs(optimizer, optimizee, name=f"{name}-{seed}", identity=identity)


def _trained(log: Path) -> tuple[int, int, int]:
    """Trajectories, windows and inner steps of a finished meta-training, from its event log."""
    events = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    windows = [event for event in events if event["kind"] in ("window", "skipped")]
    steps = sum(int(event["steps"]) for event in windows)
    return 1 + max(int(event["trajectory"]) for event in windows), len(windows), steps


def _departures(kept: Mapping[str, Any], now: Mapping[str, Any], path: str = "") -> list[str]:
    found = []
    for name, value in kept.items():
        here = now.get(name)
        if isinstance(value, Mapping) and isinstance(here, Mapping):
            found += _departures(value, here, f"{path}{name} ")
        elif value != here:
            found.append(f"{path}{name} was {value}, is {here}")
    return found


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _file(optimizee: str) -> str:
    return optimizee.lower().replace(", ", "-").replace(" ", "-")
