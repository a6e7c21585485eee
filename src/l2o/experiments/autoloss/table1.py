"""Table 1: the regression and the classifier with an L1 penalty, learned schedule against the tuned penalty.

Source: AutoLoss (anonymous 2018 submission; Xu et al. 2019), table 1: mean squared errors 4.7301 without penalty,
4.0256 with the tuned one, 4.0242 with the learned schedule; errors of classification 0.124, 0.0928, 0.0918. The numbers
of the regression are, almost certainly, validation errors on the parts of the data that the schedule was trained with,
which is why those parts have a table of their own here.
"""

from dataclasses import replace
from functools import partial
from pathlib import Path

from l2o.evaluation.dots import plot_dots
from l2o.evaluation.results import Shown, Tabled
from l2o.evaluation.verdicts import Verdict
from l2o.experiments.autoloss.contest import CONSTANT, LEARNED, Contest, cell, hold, rates, seconds_of
from l2o.experiments.autoloss.problems import Problem, classification, regression
from l2o.experiments.autoloss.trials import Row, Trials
from l2o.experiments.study import Study
from l2o.schedules.fixed import InTurn
from l2o.sweeps import run_all

FRESH = range(2, 12)
"""Seeds of the draws of the regression's fresh problems."""


def run_regression(preset: str, results: Path, work: Path) -> None:
    """Runs the regression's row and writes its results."""
    problem, trials = regression(preset), Trials(preset, results, work)
    study = Study.of("autoloss/table1-reg", preset, results, work, problem.sizes)
    published = hold(problem, trials, purpose="controller")
    clean = hold(problem, trials)
    alone, joint, learned = _names(published)
    tuned = float(published.rows[joint].values("validation").mean())
    found = float(published.rows[learned].values("validation").mean())
    without = float(published.rows[alone].values("validation").mean())
    runs = published.rows[learned].stacked("steps").size
    verdicts = [
        Verdict(
            claim="the tuned penalty reaches the published 4.0256",
            criterion="mean validation error of the tuned penalty on the published data in [4.02, 4.03]",
            measured=f"{tuned:.4f}",
            runs=problem.trials,
            passed=4.02 <= tuned <= 4.03,
        ),
        Verdict(
            claim="the learned schedule is as good as the tuned penalty",
            criterion="mean validation error of the learned schedule, less that of the tuned penalty, at most 0.01",
            measured=f"{found - tuned:.4f}",
            runs=runs,
            passed=found - tuned <= 0.01,
        ),
        Verdict(
            claim="without a penalty it is worse",
            criterion="mean validation error without penalty more than 10 % above both others",
            measured=f"{without:.4f}, the others {tuned:.4f} and {found:.4f}",
            runs=problem.trials,
            passed=without > 1.1 * max(tuned, found),
        ),
        *_against_nulls(clean),
    ]
    figures = {"published protocol": published, "data that no schedule has seen": clean}
    _draw(study, figures, "Table 1, regression", {"published": 4.0242})
    study.tables += [
        published.table("Published protocol: trained and validated on the parts that schedules are trained with"),
        clean.table("Clean: trained and validated on parts that no schedule has seen", _CLEAN),
        _fresh(problem, trials, clean),
    ]
    _finish(study, problem, trials, verdicts, [published, clean])


def run_classification(preset: str, results: Path, work: Path) -> None:
    """Runs the classifier's row and writes its results."""
    problem, trials = classification(preset), Trials(preset, results, work)
    study = Study.of("autoloss/table1-cls", preset, results, work, problem.sizes)
    clean = hold(problem, trials)
    alone, joint, learned = _names(clean)
    errors = {name: float(clean.rows[name].values("test").mean()) for name in (alone, joint, learned)}
    runs = clean.rows[learned].stacked("steps").size
    verdicts = [
        Verdict(
            claim="without a penalty it is worse",
            criterion="mean test error without penalty more than 0.01 above that of the tuned penalty",
            measured=errors[alone] - errors[joint],
            runs=problem.trials,
            passed=errors[alone] - errors[joint] > 0.01,
        ),
        Verdict(
            claim="the learned schedule is as good as the tuned penalty",
            criterion="mean test error of the learned schedule within 0.01 of that of the tuned penalty",
            measured=errors[learned] - errors[joint],
            runs=runs,
            passed=abs(errors[learned] - errors[joint]) <= 0.01,
            note=_apart(errors[learned] - errors[joint]),
        ),
        *_against_nulls(clean),
    ]
    _draw(study, {"data that no schedule has seen": clean}, "Table 1, classification", {}, metric="test")
    study.tables.append(clean.table("Trained and validated on parts that no schedule has seen", _CLEAN))
    _finish(study, problem, trials, verdicts, [clean])


def _apart(difference: float) -> str:
    """What a reader should know of a difference in test errors."""
    if difference < -0.01:
        return "outside because it is better"
    return "" if abs(difference) >= 0.009 else "a difference below 0.009 is a tie"


_CLEAN = (
    "The weight of the penalty, the step of a run that counts, and nothing else are chosen by the validation points of "
    "the model; the test points are looked at once."
)


def _names(contest: Contest) -> tuple[str, str, str]:
    """The rows without penalty, with the tuned one, and of the learned schedule."""
    alone, joint, *_ = contest.rows
    return alone, joint, LEARNED


def _against_nulls(contest: Contest) -> list[Verdict]:
    title = contest.problem.title
    return [
        contest.better(LEARNED, CONSTANT, claim=f"{title}: the learned schedule beats the best constant rate"),
        contest.better(
            LEARNED, "untrained controller", claim=f"{title}: the learned schedule beats untrained controllers"
        ),
    ]


def _fresh(problem: Problem, trials: Trials, clean: Contest) -> Tabled:
    """The same schedules on ten other draws of the data, none of them seen before."""
    seeds = list(FRESH)[: 2 if trials.preset == "smoke" else None]
    few = replace(problem, sizes=replace(problem.sizes, trials=2))
    assert problem.joint is not None
    assert clean.weight is not None
    alone, joint, learned = _names(clean)
    made = {
        alone: partial(InTurn, [0], choices=2),
        "coin": partial(rates, 2, 0, 0.5),
        CONSTANT: partial(rates, 2, 0, clean.rate),
        learned: partial(trials.trained, problem, 1),
    }
    both = partial(InTurn, [0], choices=1)
    joined = {data: problem.joint("model", data, clean.weight) for data in seeds}
    rows: list[dict[str, str | float | None]] = []
    for name in (alone, joint, "coin", CONSTANT, learned):
        if name == joint:
            calls = {f"{d}": partial(trials.run, few, "joint", both, data=d, family=joined[d]) for d in seeds}
        else:
            calls = {f"{d}": partial(trials.run, few, name, made[name], data=d) for d in seeds}
        runs = run_all(calls, title=f"{problem.title}, other draws: {name}")
        row = Row(name, list(runs.values()))  # draws of the data in the place of seeds
        rows.append(
            {
                "schedule": name,
                **{metric: cell(row.interval(metric), problem.decimals) for metric in ("validation", "test")},
            }
        )
    note = (
        f"{len(seeds)} other draws of the data, {few.trials} starts each; weight, rate and schedule (seed 1) as above."
    )
    return Tabled("Fresh problems", rows, note)


def _draw(study: Study, contests: dict[str, Contest], title: str, lines: dict[str, float], *, metric: str = "") -> None:
    panels = {
        heading: {
            row.name.partition(", weight")[0]: row.interval(metric or contest.metric, price=contest.problem.price)
            for row in contest.rows.values()
        }
        for heading, contest in contests.items()
    }
    measure = next(iter(contests.values())).problem.measure
    plot_dots(panels, path=study.folder / "figure.png", title=title, xlabel=measure, bold=LEARNED, lines=lines)
    study.figures.append(Shown("figure.png", title, f"{title}: {measure} of each schedule with its 95 % interval."))


def _finish(study: Study, problem: Problem, trials: Trials, verdicts: list[Verdict], contests: list[Contest]) -> None:
    study.seconds = seconds_of(problem, trials, contests)
    study.data += problem.families("model", problem.seed).data_notes()
    study.finish(
        verdicts,
        summary=f"{problem.title.capitalize()}: schedules of two losses, each with one Adam for both. Published is the "
        "row of table 1; every other line is a null that the paper lacks.",
        seeds=list(problem.seeds),
    )
