"""Figures 2 and 3: a GAN under fixed ratios of its updates and under learned schedules.

Source: AutoLoss (Xu et al. 2019), figures 2 and 3, on 28x28 MNIST with large networks: inception scores 8.63 (1:1),
8.94 (1:3), 9.02 (1:5), 9.04 (1:7, discriminator to generator), 9.05 (learned). The preset laptop is a SCALED variant:
perceptrons on 8x8 digits, judged by a classifier of digits. There the best ratio is another one, and nothing here is a
statement about the published numbers.
"""

import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np

from l2o.evaluation.dots import plot_bands, plot_dots, plot_images
from l2o.evaluation.results import Shown, Tabled
from l2o.evaluation.statistics import crossed_bootstrap
from l2o.evaluation.verdicts import Verdict
from l2o.experiments.autoloss.contest import CONSTANT, LEARNED, cell, hold, seconds_of
from l2o.experiments.autoloss.problems import Problem, players
from l2o.experiments.autoloss.trials import Row, Trials
from l2o.experiments.study import Study
from l2o.rng import Stream
from l2o.schedules.fixed import InTurn
from l2o.sweeps import run_all
from l2o.tasks.gan import GAN

STEPS = "steps (updates of either network)"

RATIOS = ((1, 1), (1, 3), (1, 5), (1, 7), (1, 9), (1, 11), (3, 1), (5, 1), (7, 1), (9, 1), (11, 1))
"""Discriminator to generator, as published and turned round."""


def run_scores(preset: str, results: Path, work: Path) -> None:
    """Figure 2: scores against steps."""
    problem, trials = players(preset), Trials(preset, results, work)
    study = Study.of("autoloss/fig2-gan", preset, results, work, problem.sizes)
    contest = hold(problem, trials)
    ratios = fixed_ratios(problem, trials, RATIOS[:3] if preset == "smoke" else RATIOS)
    best = max(ratios, key=lambda name: float(ratios[name].values("inception_score").mean()))
    learned, even = contest.rows[LEARNED], ratios["1:1"]
    shown = {name: ratios[name] for name in dict.fromkeys(("1:1", "1:3", "1:5", "1:7", best)) if name in ratios}
    shown |= {CONSTANT: contest.rows[CONSTANT], LEARNED: learned}
    title = f"Figure 2, {problem.title}"
    named = {f"{name} (best ratio)" if name == best else name: row for name, row in shown.items()}
    draw_scores(study, named, title, note="ratios are discriminator to generator")
    every = {name: row.interval("inception_score") for name, row in {**ratios, **contest.rows}.items()}
    plot_dots(
        {"best validation of each run": every},
        path=study.folder / "scores.png",
        title=f"{problem.title}: every schedule",
        xlabel="inception score",
        bold=LEARNED,
    )
    study.figures.append(
        Shown("scores.png", "Every schedule", "Best inception score of each schedule with its 95 % interval.")
    )
    study.tables += [_ratio_table(ratios, problem), contest.table("Learned schedules and nulls")]
    verdicts = [
        _near_the_best(learned, ratios[best], best),
        _faster(learned, even),
        contest.better(LEARNED, CONSTANT, claim="the learned schedule beats the best constant rate"),
        contest.better(LEARNED, "untrained controller", claim="the learned schedule beats untrained controllers"),
    ]
    study.seconds = seconds_of(problem, trials, [contest]) + sum(
        run.seconds for row in ratios.values() for run in row.runs
    )
    study.data += problem.families("model", problem.seed).data_notes()
    study.finish(
        verdicts,
        summary=f"{problem.title}, not the published network: an update of one network a step, "
        f"{problem.steps:,} steps, {problem.trials} starts each; {len(problem.seeds)} learned schedules.",
        seeds=list(problem.seeds),
    )


def run_samples(preset: str, results: Path, work: Path) -> None:
    """Figure 3: what the generators make."""
    problem, trials, begin = players(preset), Trials(preset, results, work), time.perf_counter()
    study = Study.of("autoloss/fig3-samples", preset, results, work, problem.sizes)
    family = problem.families("model", problem.seed)
    assert isinstance(family, GAN)
    schedules = {LEARNED: trials.trained(problem, 1), "in turn (1:1)": InTurn([0, 1])}
    panels, shares = {}, {}
    for name, schedule in schedules.items():
        ran = trials.record(problem, schedule)
        rng = Stream(problem.seed, ("samples",), tasks=range(problem.trials))
        panels[name] = family.samples(ran.process.params, 128, rng)[0]
        shares[name] = family.class_shares(
            ran.process.params, 200 if preset == "smoke" else 10_000, rng
        )  # [trials, 10]
    title = f"Figure 3, {problem.title}: samples of one run each"
    plot_images(panels, path=study.folder / "figure.png", title=title)
    study.figures.append(Shown("figure.png", title, "128 generated digits under the learned schedule and under 1:1."))
    rows: list[dict[str, str | float | None]] = [
        {"schedule": name, **{str(digit): f"{float(share):.3f}" for digit, share in enumerate(found.mean(0))}}
        for name, found in shares.items()
    ]
    study.tables.append(Tabled("Share of each digit, by the classifier", rows, "Mean over trials, at the last step."))
    least = shares[LEARNED].min(1).values  # [trials]
    verdict = Verdict(
        claim="under the learned schedule every digit is made",
        criterion="share of every digit among 10,000 samples at least 0.03, in most of the trials",
        measured=", ".join(f"{float(value):.3f}" for value in least),
        runs=len(least),
        passed=bool((least >= 0.03).double().mean() > 0.5),
    )
    study.data += family.data_notes()
    study.seconds = time.perf_counter() - begin
    study.finish([verdict], summary="What the generators make at the last step of a run.", seeds=[1])


def draw_scores(study: Study, rows: Mapping[str, Row], title: str, *, note: str = "") -> None:
    """Draws the inception score of each row against steps."""
    curves = {
        name: {
            float(step): crossed_bootstrap(row.stacked("curve")[..., place], resamples=500)
            for place, step in enumerate(row.runs[0].places)
        }
        for name, row in rows.items()
    }
    plot_bands(
        curves,
        path=study.folder / "figure.png",
        title=title,
        xlabel=STEPS,
        ylabel="inception score",
        xscale="linear",
        note=note,
    )
    study.figures.append(Shown("figure.png", title, "Inception score against steps under each schedule."))


def fixed_ratios(problem: Problem, trials: Trials, ratios: tuple[tuple[int, int], ...]) -> dict[str, Row]:
    """The trials of each ratio of discriminator to generator."""
    calls = {
        f"{d}:{g}": partial(trials.run, problem, f"ratio-{d}-{g}", partial(InTurn, [1] * d + [0] * g))
        for d, g in ratios
    }
    return {name: Row(name, [ran]) for name, ran in run_all(calls, title=f"{problem.title}: ratios").items()}


def _ratio_table(ratios: dict[str, Row], problem: Problem) -> Tabled:
    rows: list[dict[str, str | float | None]] = [
        {
            "discriminator : generator": name,
            "best inception score": cell(row.interval("inception_score"), problem.decimals),
            "frechet": cell(row.interval("frechet"), problem.decimals),
            "last inception score": f"{row.stacked('curve')[..., -1].mean():.2f}",
            "diverged": f"{int(row.stacked('diverged').sum())} of {row.stacked('diverged').size}",
        }
        for name, row in ratios.items()
    ]
    return Tabled(
        "Fixed ratios", rows, f"{problem.trials} starts each; frechet: at the validation with the best score."
    )


def _near_the_best(learned: Row, best: Row, name: str) -> Verdict:
    values = best.values("inception_score")
    deviation = float(values.std(ddof=1)) if values.size > 1 else 0.0
    found, wanted = float(learned.values("inception_score").mean()), float(values.mean())
    return Verdict(
        claim="learned schedules are as good as the best fixed ratio",
        criterion="mean inception score of learned schedules at least that of the best ratio, which is chosen "
        "afterwards on the same runs, less one standard deviation of its runs",
        measured=f"{found:.2f} against {wanted:.2f} ({name}), deviation {deviation:.2f}",
        runs=learned.values("inception_score").size,
        passed=found >= wanted - deviation,
    )


def _faster(learned: Row, even: Row) -> Verdict:
    goal = float(even.stacked("curve")[..., -1].mean())
    curve = np.maximum.accumulate(learned.stacked("curve").mean((0, 1)))
    reached = learned.runs[0].places[curve >= goal]
    last = float(even.runs[0].places[-1])
    return Verdict(
        claim="learned schedules reach the last score of 1:1 in fewer steps",
        criterion="first validation at which the mean score of learned schedules is at least the mean last score of "
        "1:1, before the last step",
        measured=f"{reached[0]:,.0f} of {last:,.0f} steps to {goal:.2f}" if len(reached) else f"never {goal:.2f}",
        runs=learned.stacked("steps").size,
        passed=bool(len(reached)) and float(reached[0]) < last,
    )
