"""Figure 4: plain L2O-DM, meta-trained for longer and on longer trajectories.

Source: Chen et al. 2020, figure 4: of every part of a meta-training the best validation is tested over 10,000 steps.
More meta-training on short trajectories makes the optimizer worse on long runs, on longer trajectories less so; the
best of all is the longest. It is what L2O-DM-AUG of figure 5 was chosen from.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from l2o.errors import InterruptedRunError
from l2o.evaluation.long_runs import LongRuns
from l2o.evaluation.panels import plot_marks
from l2o.evaluation.results import Shown, Tabled
from l2o.evaluation.tables import in_words
from l2o.evaluation.verdicts import Verdict
from l2o.experiments.stronger_baselines.optimizees import training_family
from l2o.experiments.stronger_baselines.shared import Shared
from l2o.experiments.study import Study
from l2o.horizons import ConstantHorizon
from l2o.metatrain import metatrain
from l2o.methods.meta_loss import MetaLoss
from l2o.optimizers.architectures import load
from l2o.optimizers.dm import L2ODM
from l2o.outer_loop import Plan
from l2o.progress import ProgressBar
from l2o.sweeps import run_all
from l2o.weights import load_card, save

OPTIMIZEE = "MLP-orig"


@dataclass(frozen=True)
class Settings:
    """A preset of this experiment.

    Args:
        lengths: inner steps of the trajectories of each meta-training.
        plan: of all of them; its horizon is replaced.
        part: trajectories of a part.
        steps: inner steps of a test.
        runs: fresh starts of a test.
    """

    lengths: tuple[int, ...]
    plan: Plan
    part: int
    steps: int
    runs: int


PRESETS = {
    "smoke": Settings(
        (10, 20),
        Plan(trajectories=4, validate_every=1, validation_tasks=1, validation_last=5, seed=1),
        part=2,
        steps=10,
        runs=2,
    ),
    "laptop": Settings(
        (100, 1000),
        Plan(trajectories=500, validate_every=20, validation_tasks=3, seed=1),
        part=100,
        steps=2_000,
        runs=3,
    ),
    "paper": Settings(
        (100, 200, 500, 1000),
        Plan(trajectories=10_000, validate_every=100, validation_tasks=20, seed=1),
        part=1_000,
        steps=10_000,
        runs=20,
    ),
}


def run(preset: str, results: Path, work: Path) -> None:
    """Runs the preset and writes its results."""
    settings, shared = PRESETS[preset], Shared(preset, results, work)
    study = Study.of("stronger-baselines/fig4", preset, results, work, settings)
    missing = [
        length for length in settings.lengths if not all(p.exists() for p in _paths(length, settings, shared).values())
    ]
    trained = run_all(
        {f"{length} steps": partial(_train, length, settings, shared) for length in missing}, title="meta-training"
    )
    study.seconds += sum(trained.values())
    tested = {length: _tested(length, settings, shared, study) for length in settings.lengths}
    for length, marks in tested.items():
        study.tables.append(_table(length, marks))
    curves = {f"{length:,} steps": marks for length, marks in tested.items()}
    title = "Figure 4: plain L2O-DM, meta-trained on more and on longer trajectories"
    plot_marks(
        curves,
        path=study.folder / "figure.png",
        title=title,
        xlabel="trajectories of the meta-training",
        ylabel=f"ln loss after {settings.steps:,} steps on {OPTIMIZEE}",
    )
    study.figures.append(Shown("figure.png", title, f"{title}: mean ln loss of the last block against trajectories."))
    study.finish(
        [*(_stays(length, marks) for length, marks in tested.items()), _longer_is_better(tested)],
        summary=f"L2O-DM meta-trained plainly on trajectories of {' and '.join(f'{n:,}' for n in settings.lengths)} "
        f"steps; the best validation of every {settings.part:,} trajectories is tested on {OPTIMIZEE} for "
        f"{settings.steps:,} steps, trained on the test split, as in the source. One meta-training seed, "
        f"{settings.runs} fresh starts: the intervals are over starts alone.",
        seeds=[settings.plan.seed],
    )


def _tested(length: int, settings: Settings, shared: Shared, study: Study) -> Mapping[int, LongRuns]:
    """The long runs of each part's best, by the trajectories at the part's end."""
    paths = _paths(length, settings, shared)
    calls = {
        f"{length} steps, {mark:,} trajectories": partial(
            shared.long_runs,
            load(path),
            OPTIMIZEE,
            name=f"fig4-{length}-at-{mark}",
            identity={"weights": load_card(path).sha256},
            steps=settings.steps,
            runs=settings.runs,
        )
        for mark, path in paths.items()
    }
    tested = dict(zip(paths, run_all(calls, title=f"runs on {OPTIMIZEE}").values(), strict=True))
    for runs in tested.values():
        study.seconds += runs.about[0]["seconds"]
        study.data += [note for note in runs.about[0]["data"] if note not in study.data]
        study.backends.append(f"{runs.about[0]['backend']}: L2O-DM")
    return tested


def _paths(length: int, settings: Settings, shared: Shared) -> dict[int, Path]:
    """The weights of each part's best, by the trajectories at the part's end."""
    marks = range(settings.part, settings.plan.trajectories + 1, settings.part)
    return {mark: shared.folder / "weights" / f"fig4-{length}-at-{mark}.safetensors" for mark in marks}


def _train(length: int, settings: Settings, shared: Shared) -> float:
    """Meta-trains, keeps the best of each part, and returns the seconds that it took."""
    plan = replace(settings.plan, horizon=ConstantHorizon(length, min(20, length // 2)))
    directory = shared.work / f"fig4-{length}"
    shared.console.print(f"meta-training on trajectories of {length} steps; checkpoints in {directory}")
    with ProgressBar(plan.trajectories, f"{length} steps") as bar:
        trained = metatrain(
            L2ODM.chen(seed=plan.seed),
            training_family(shared.preset),
            MetaLoss(),
            plan,
            directory=directory,
            listeners=[bar],
            keep_every=settings.part,
        )
    if not trained.finished:
        raise InterruptedRunError(f"stopped; the same command goes on from {directory}")
    for mark, path in _paths(length, settings, shared).items():
        kept = directory / f"best-{mark}.safetensors"
        save(load(kept), path, load_card(kept))
    return trained.seconds


def _table(length: int, marks: Mapping[int, LongRuns]) -> Tabled:
    rows: list[dict[str, str | float | None]] = [
        {
            "trajectories": f"{mark:,}",
            "ln loss, last block": in_words(runs.interval()),
            "diverged": f"{int(runs.diverged.sum())} of {runs.runs}",
        }
        for mark, runs in marks.items()
    ]
    return Tabled(f"Trajectories of {length:,} steps", rows, "The best validation of the trajectories up to here.")


def _stays(length: int, marks: Mapping[int, LongRuns]) -> Verdict:
    """Whether the last part is worse than the first, as the paper has it for the shortest trajectories."""
    first, *_, last = marks.values()
    interval = last.below(first)
    return Verdict(
        claim=f"trajectories of {length:,} steps: more of them make long runs worse",
        criterion="95 % interval over starts of the difference in mean ln loss over the last block of steps, last part "
        "minus first, lies above 0",
        measured=interval.estimate,
        runs=first.runs + last.runs,
        passed=interval.low > 0,
        interval=(interval.low, interval.high),
    )


def _longer_is_better(tested: Mapping[int, Mapping[int, LongRuns]]) -> Verdict:
    shortest, longest = (min(tested[pick(tested)].values(), key=_ln_loss) for pick in (min, max))
    interval = longest.below(shortest)
    return Verdict(
        claim="the best of the longest trajectories ends below the best of the shortest",
        criterion="95 % interval over starts of the difference in mean ln loss over the last block of steps, each the "
        "part with the lowest mean, lies below 0",
        measured=interval.estimate,
        runs=shortest.runs + longest.runs,
        passed=interval.high < 0,
        interval=(interval.low, interval.high),
    )


def _ln_loss(runs: LongRuns) -> float:
    return float(runs.final().mean())
