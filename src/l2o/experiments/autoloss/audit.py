"""What the nulls say: on each problem, does any schedule that looks at the run beat the best constant rate?

AutoLoss (Xu et al. 2019) has no such comparison. On its regression a constant rate explains the published result.
"""

from pathlib import Path

from l2o.evaluation.dots import plot_dots
from l2o.evaluation.results import Shown, Tabled
from l2o.evaluation.statistics import Interval
from l2o.experiments.autoloss.contest import CONSTANT, LEARNED, SHUFFLED, TIMED, Contest, cell, hold, seconds_of
from l2o.experiments.autoloss.problems import classification, mixture, multitask, players, regression
from l2o.experiments.autoloss.trials import Trials
from l2o.experiments.study import Study


def run(preset: str, results: Path, work: Path) -> None:
    """Runs the audit of every problem and writes its results."""
    trials = Trials(preset, results, work)
    problems = [
        regression(preset),
        regression(preset, 0.1),
        classification(preset),
        multitask(preset),
        mixture(preset),
        players(preset),
    ]
    study = Study.of("autoloss/null-audit", preset, results, work, problems[0].sizes)
    rows: list[dict[str, str | float | None]] = []
    verdicts, gains = [], {}
    for problem in problems:
        contest = hold(problem, trials)
        rows.append(_line(contest))
        gains |= {f"{problem.title}: {name}": _gain(contest, name) for name in (LEARNED, TIMED, SHUFFLED)}
        verdicts += [
            contest.better(
                LEARNED, CONSTANT, claim=f"{problem.title}: the learned schedule beats the best constant rate"
            ),
            contest.better(
                LEARNED, SHUFFLED, claim=f"{problem.title}: the learned schedule beats its own rates, shuffled in time"
            ),
        ]
        study.tables.append(contest.table(problem.title.capitalize()))
        study.seconds += seconds_of(problem, trials, [contest])
    title = "What state-dependent schedules gain over the best constant rate"
    plot_dots(
        {"": gains},
        path=study.folder / "figure.png",
        title=title,
        xlabel="gain, in standard deviations of the constant rate's trials; logarithmic beyond 1",
        linear_within=1.0,
    )
    study.figures.append(Shown("figure.png", title, "Gain over the best constant rate, problem by problem."))
    study.tables.insert(0, Tabled("Does any state-dependent schedule beat the best constant rate?", rows))
    study.finish(
        verdicts,
        summary="Every problem's learned schedules against the best constant rate of the same budget, and against "
        "themselves without what they see.",
        seeds=list(problems[0].seeds),
    )


def _line(contest: Contest) -> dict[str, str | float | None]:
    problem = contest.problem
    gain = contest.rows[LEARNED].above(contest.rows[CONSTANT], contest.metric, price=problem.price)
    certain = gain.low > 0 if contest.higher else gain.high < 0
    worse = gain.high < 0 if contest.higher else gain.low > 0
    return {
        "problem": problem.title,
        "measure": problem.measure,
        "best constant rate": f"{contest.rate:.2f}",
        "learned less best constant rate": cell(gain, problem.decimals),
        "answer": "yes" if certain else "no: worse" if worse else "no: a tie",
    }


def _gain(contest: Contest, name: str) -> Interval:
    """The gain of a row over the best constant rate, in standard deviations of the latter's trials."""
    constant = contest.rows[CONSTANT].values(contest.metric, price=contest.problem.price)
    scale = float(constant.std(ddof=1)) or 1.0
    sign = 1 if contest.higher else -1
    found = contest.rows[name].above(contest.rows[CONSTANT], contest.metric, price=contest.problem.price)
    low, high = sorted((sign * found.low / scale, sign * found.high / scale))
    return Interval(sign * found.estimate / scale, low, high, found.runs)
