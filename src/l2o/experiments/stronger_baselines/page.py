"""One figure of "Training stronger baselines": its panels, its tables, its verdicts."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from l2o.evaluation.long_runs import LongRuns
from l2o.evaluation.panels import plot_panels, plot_stages
from l2o.evaluation.results import Shown, Tabled
from l2o.evaluation.statistics import Array
from l2o.evaluation.tables import in_words, number
from l2o.evaluation.verdicts import Verdict
from l2o.experiments.stronger_baselines.optimizees import OPTIMIZEES
from l2o.experiments.stronger_baselines.shared import RULES, Settings, Shared
from l2o.experiments.study import Study

CHANCE = math.log(math.log(10))
"""ln of the loss of ten equal probabilities, where every run starts and where a dead network stays."""

RISE = 0.5
"""A curve rises again when it ends so far above its lowest block, in nats."""

MARGIN = 0.3
"""A network counts as trained when its loss is so far below ln 10."""


@dataclass(frozen=True)
class _Configuration:
    settings: Settings
    steps: Mapping[str, int]


class Page:
    """One figure on its way: add panels, then verdicts, then finish.

    Args:
        figure: for instance "fig2".
        preset: "smoke", "laptop" or "paper".
        results: folder of all results.
        work: folder of all checkpoints.
    """

    def __init__(self, figure: str, preset: str, results: Path, work: Path) -> None:
        self.shared = Shared(preset, results, work)
        experiment = f"stronger-baselines/{figure}"
        steps = {name: tested.steps[preset] for name, tested in OPTIMIZEES.items()}
        self.study = Study.of(experiment, preset, results, work, _Configuration(self.shared.settings, steps))
        self.panels: dict[str, dict[str, LongRuns]] = {}
        self.verdicts: list[Verdict] = []

    def panel(self, optimizee: str, learned: Sequence[str], rules: Sequence[str] = ()) -> None:
        """Adds the long runs of learned and of tuned hand-designed optimizers on one optimizee."""
        runs = self.shared.panel(optimizee, learned, rules)
        self.panels[optimizee] = runs
        notes = [note for one in runs.values() for about in one.about for note in about["data"]]
        self.study.data += [note for note in dict.fromkeys(notes) if note not in self.study.data]
        for name, one in runs.items():
            self.study.backends += [f"{about['backend']}: {name}" for about in one.about]

    def below(self, optimizee: str, first: str, second: str) -> Verdict:
        """Judges whether `first` ends below `second`, and keeps the verdict."""
        runs = self.panels[optimizee]
        interval = runs[first].below(runs[second])
        own, others = (runs[name].final().mean(1) for name in (first, second))
        apart = "every seed of the first below every seed of the second" if own.max() < others.min() else ""
        verdict = Verdict(
            claim=f"{optimizee}: {first} ends below {second}",
            criterion="95 % interval of the difference in mean ln loss over the last block of steps (resampling "
            "meta-training seeds and runs) lies below 0; a failed run counts as infinite",
            measured=interval.estimate,
            runs=runs[first].runs + runs[second].runs,
            passed=interval.high < 0,
            interval=(interval.low, interval.high),
            note=apart,
        )
        self.verdicts.append(verdict)
        return verdict

    def trains(self, optimizee: str, name: str, *, expected: bool) -> Verdict:
        """Judges whether two thirds of an optimizer's runs end below chance by a margin, as claimed or denied."""
        losses = self.panels[optimizee][name].final_losses()
        share = float((losses < math.log(10) - MARGIN).mean())
        verdict = Verdict(
            claim=f"{optimizee}: {name} {'trains it' if expected else 'does not train it'}",
            criterion=f"mean loss over the last block of steps below ln 10 - {MARGIN:g} in "
            f"{'at least' if expected else 'fewer than'} two thirds of the runs",
            measured=share,
            runs=losses.size,
            passed=(share >= 2 / 3) == expected,
        )
        self.verdicts.append(verdict)
        return verdict

    def rises(self, optimizee: str, name: str) -> Verdict:
        """Judges whether an optimizer's mean curve ends well above where it has been."""
        runs = self.panels[optimizee][name]
        curve = runs.mean_curve()
        rise = float(curve[-1] - curve.min()) if np.isfinite(curve).all() else math.inf
        verdict = Verdict(
            claim=f"{optimizee}: {name} rises again",
            criterion=f"the mean curve of ln loss over all seeds and runs ends more than {RISE:g} above its lowest "
            "block of steps; a failed run counts as infinite",
            measured=rise,
            runs=runs.runs,
            passed=rise > RISE,
        )
        self.verdicts.append(verdict)
        return verdict

    def steadier(self, first: str, second: str, *, needed: int) -> None:
        """Judges whether the runs of `first` differ less from each other than those of `second` in most panels."""
        smaller = [
            optimizee
            for optimizee, panel in self.panels.items()
            if _deviation(panel[first].final()) < _deviation(panel[second].final())
        ]
        self.verdicts.append(
            Verdict(
                claim=f"{first} varies less than {second}",
                criterion="standard deviation over all seeds and runs of mean ln loss in the last block of steps is "
                f"smaller on at least {needed} of {len(self.panels)} optimizees",
                measured=", ".join(smaller) or "none",
                runs=sum(panel[name].runs for panel in self.panels.values() for name in (first, second)),
                passed=len(smaller) >= needed,
            )
        )

    def count(self, claim: str, verdicts: Sequence[Verdict], needed: int) -> None:
        """Keeps a verdict about how many others passed."""
        passed = sum(verdict.passed for verdict in verdicts)
        self.verdicts.append(
            Verdict(
                claim=claim,
                criterion=f"at least {needed} of the {len(verdicts)} single verdicts passed",
                measured=passed,
                runs=sum(verdict.runs for verdict in verdicts),
                passed=passed >= needed,
            )
        )

    def finish(self, *, title: str, summary: str, thick: str) -> None:
        """Draws the figure, makes the tables, writes everything."""
        plot_panels(
            self.panels,
            path=self.study.folder / "figure.png",
            title=title,
            thick=thick,
            levels={"ln ln 10, chance": CHANCE},
        )
        self.study.figures.append(Shown("figure.png", title, f"{title}: mean ln training loss against step."))
        self._stages()
        self.study.tables += [self._losses(optimizee, runs) for optimizee, runs in self.panels.items()]
        self.study.tables.append(self._meta_training())
        self.study.seconds = self._seconds()
        recipes = {name: self.shared.recipes[name] for name in self._learned()}
        self.study.configuration["meta-training"] = {
            name: json.loads(json.dumps({"method": recipe.method.describe(), "plan": asdict(recipe.plan)}))
            for name, recipe in recipes.items()
        }
        runs = self.shared.settings.runs
        seeds = self.shared.settings.seeds
        self.study.finish(
            self.verdicts,
            summary=f"{summary}{self._rectified()} Optimizees are trained on the test split, as in the source. "
            f"{len(seeds)} meta-training seeds, {runs} fresh starts each, the same for all optimizers. The time is "
            "that of everything shown, most of which other figures share.",
            seeds=seeds,
        )

    def _rectified(self) -> str:
        """What a reader must know of the networks that have a ReLU on their logits, if there are any."""
        names = [name for name in self.panels if f"{name}, linear logits" in OPTIMIZEES]
        if not names:
            return ""
        return (
            f" With the public code's ReLU on the logits: {', '.join(names)}. It decides much of what is seen there: "
            "compare `stronger-baselines/logits`, which has convolutional networks without it."
        )

    def _stages(self) -> None:
        """Draws the validations of the meta-trainings with a curriculum, if there are any."""
        growing = [name for name in self._learned() if len(self.shared.plan(name).horizon.stages) > 1]
        if not growing:
            return
        seeds = self.shared.settings.seeds
        title = "The curriculum, stage by stage"
        plot_stages(
            {name: [self.shared.record(name, seed).validations for seed in seeds] for name in growing},
            path=self.study.folder / "stages.png",
            title=title,
        )
        self.study.figures.append(Shown("stages.png", title, "Validations of each stage against trajectories."))

    def _losses(self, optimizee: str, panel: Mapping[str, LongRuns]) -> Tabled:
        rows: list[dict[str, str | float | None]] = []
        for name, runs in panel.items():
            final, losses = runs.final(), runs.final_losses()
            curve = runs.mean_curve()
            lowest = float(np.nanmin(curve)) if np.isfinite(curve).any() else math.inf
            rows.append(
                {
                    "optimizer": name,
                    "ln loss, last block": in_words(runs.interval()),
                    "each seed": ", ".join(number(float(value)) for value in final.mean(1)),
                    "ln of the mean loss": number(float(np.log(losses.mean()))),
                    "lowest block": number(lowest),
                    "deviation of runs": number(float(final.std(1, ddof=1).mean())) if np.isfinite(final).all() else "",
                    "diverged": f"{int(runs.diverged.sum())} of {runs.runs}",
                    "ms per step": round(1e3 * float(np.mean([about["seconds_per_step"] for about in runs.about])), 2),
                    "learning rate": self._rate(optimizee, name),
                }
            )
        steps, block = next(iter(panel.values())).steps, next(iter(panel.values())).block
        return Tabled(
            f"{optimizee}, {steps:,} steps",
            rows,
            f"ln loss, last block: mean of ln loss over the last {block} steps, over seeds and runs, with its 95 % "
            "interval. Lowest block: of the mean curve. Deviation of runs: standard deviation of that measure among "
            "the runs of one meta-training seed, mean over seeds. Ms per step: as it ran, gradient included, beside "
            "other work on the same machine.",
        )

    def _rate(self, optimizee: str, name: str) -> str:
        if name not in RULES:
            return ""
        tuning = self.shared.tuning(name, optimizee)[0]
        edge = " (on the grid's edge)" if tuning.on_edge else ""
        return f"{tuning.best:.4g}{edge}, best of {len(tuning.scores)} by {tuning.runs} runs"

    def _learned(self) -> list[str]:
        names = dict.fromkeys(name for runs in self.panels.values() for name in runs)
        return [name for name in names if name not in RULES]

    def _meta_training(self) -> Tabled:
        rows: list[dict[str, str | float | None]] = []
        note = (
            "Chosen by validation on tasks of the same kind. Minutes: wall time, beside other work on the same machine."
        )
        for name in self._learned():
            plan = self.shared.plan(name)
            for seed in self.shared.settings.seeds:
                record = self.shared.record(name, seed)
                if departures := self.shared.departures(name, seed):
                    note += f" The recipe of {name} has changed since seed {seed}: {'; '.join(departures)}."
                _, stage, steps, _ = record.validations[-1]
                best = number(math.inf if record.best is None else record.best)
                measure = " (mean ln of last by first loss)" if plan.validation_measure == "log-ratio" else ""
                stages = len(plan.horizon.stages)
                rows.append(
                    {
                        "optimizer": name,
                        "seed": str(seed),
                        "trained on": self.shared.card(name, seed).training_tasks,
                        "trajectories": record.trajectories,
                        "inner steps": record.training_steps,
                        "inner steps of validations": record.validation_steps,
                        "minutes": round(record.seconds / 60, 1),
                        "stages reached": f"{stage + 1} of {stages}",
                        "best validation": f"{best}{measure} at {steps:,} steps",
                        "windows skipped": record.skipped,
                    }
                )
        return Tabled("Meta-training", rows, note)

    def _seconds(self) -> float:
        learned = sum(
            self.shared.record(n, seed).seconds for n in self._learned() for seed in self.shared.settings.seeds
        )
        runs = sum(about["seconds"] for panel in self.panels.values() for one in panel.values() for about in one.about)
        tuned = [(name, optimizee) for optimizee, panel in self.panels.items() for name in panel if name in RULES]
        return learned + runs + sum(self.shared.tuning(name, optimizee)[1] for name, optimizee in tuned)


def _deviation(values: Array) -> float:
    return float(values.std(ddof=1)) if np.isfinite(values).all() else math.inf
