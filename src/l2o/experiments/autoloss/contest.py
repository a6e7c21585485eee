"""A learned schedule against everything simple: constant rates, chance, time alone, and itself without its eyes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from l2o.evaluation.results import Tabled
from l2o.evaluation.statistics import Interval
from l2o.evaluation.verdicts import Verdict
from l2o.experiments.autoloss.problems import Problem
from l2o.experiments.autoloss.trials import Row, Runs, Trials
from l2o.rng import Stream
from l2o.schedules.base import Schedule
from l2o.schedules.fixed import ConstantRates, InTurn, RatesInTime, Recorded
from l2o.sweeps import run_all
from l2o.tasks.splits import Purpose

RATES = 11
"""Constant rates that are tried."""

GRID = 50
"""Runs of the search for a penalty's weight: 20 in decades from 0.001 to 10, 15 between the best one's neighbours in
equal ratios, 15 between the best one's neighbours in equal steps, as published."""

TIMED_SEEDS = 3
"""Schedules that see the time alone, at most."""

LEARNED = "learned schedule"
CONSTANT = "best constant rate"
TIMED = "learned, from time alone"
SHUFFLED = "its probabilities, shuffled in time"


@dataclass(frozen=True)
class Contest:
    """The rows of a problem's table, on one purpose of its data.

    Args:
        problem: whose.
        purpose: the parts that models were trained with.
        rows: by name, in the order of the table.
        weight: the best weight of the penalty in joint training, or None.
        rate: the best constant rate of the first choice.
    """

    problem: Problem
    purpose: Purpose
    rows: dict[str, Row]
    weight: float | None
    rate: float

    @property
    def metric(self) -> str:
        return self.problem.families(self.purpose, self.problem.seed).goal.metric

    @property
    def higher(self) -> bool:
        return self.problem.families(self.purpose, self.problem.seed).goal.better == "higher"

    def table(self, title: str, note: str = "") -> Tabled:
        """Everything about every row."""
        problem, first = self.problem, self.problem.families(self.purpose, self.problem.seed).choices[0].name
        rows: list[dict[str, str | float | None]] = []
        for row in self.rows.values():
            found: dict[str, str | float | None] = {"schedule": row.name}
            judged = row.interval(self.metric, price=problem.price)
            found[f"{problem.measure}, validation"] = cell(judged, problem.decimals)
            if problem.tested:
                found[problem.tested] = cell(row.interval(problem.tested), problem.decimals)
            shares = row.stacked("shares")
            found[f"share of {first}"] = f"{shares[..., 0].mean():.2f}" if shares.shape[-1] > 1 else ""
            found["steps"] = f"{row.stacked('steps').mean():,.0f}"
            found["diverged"] = f"{int(row.stacked('diverged').sum())} of {row.stacked('diverged').size}"
            found["runs spent"] = f"{row.spent:,}" if row.spent else ""
            rows.append(found)
        seeds = f"{problem.trials} trials; mean over seeds and trials with its 95 % interval."
        return Tabled(title, rows, " ".join(filter(None, [seeds, note])))

    def better(self, name: str, other: str, *, claim: str) -> Verdict:
        """Whether a row is better than another one with certainty."""
        interval = self.rows[name].above(self.rows[other], self.metric, price=self.problem.price)
        passed = interval.low > 0 if self.higher else interval.high < 0
        side = "above" if self.higher else "below"
        return Verdict(
            claim=claim,
            criterion=f"95 % interval of the mean difference in {self.problem.measure}, validation, trial by trial "
            f"(seeds of schedules and trials resampled), lies {side} 0",
            measured=interval.estimate,
            runs=self.rows[name].stacked("steps").size,
            passed=passed,
            interval=(interval.low, interval.high),
        )


def cell(interval: Interval, decimals: int) -> str:
    """An interval in words with so many decimals."""
    return f"{interval.estimate:.{decimals}f} [{interval.low:.{decimals}f}, {interval.high:.{decimals}f}]"


def hold(problem: Problem, trials: Trials, *, purpose: Purpose = "model") -> Contest:
    """Trains what has to be trained, and runs every row of a problem's table."""
    family = problem.families(purpose, problem.seed)
    count = len(family.choices)

    def run(name: str, schedule: Callable[[], Schedule]) -> Runs:
        return trials.run(problem, name, schedule, purpose=purpose)

    run_each = partial(trials.run_each, problem, purpose=purpose)
    rows: dict[str, Row] = {}

    def add(name: str, runs: Sequence[Runs], spent: int = 0) -> None:
        rows[name] = Row(name, runs, spent)

    primary = family.choices[problem.primary].name
    add(f"{primary} alone", [run("alone", lambda: InTurn([problem.primary], choices=count))])
    weight = None
    if problem.joint is not None:
        weight = best_weight(problem, trials, purpose)
        joint = problem.joint(purpose, problem.seed, weight)
        found = trials.run(problem, "joint", lambda: InTurn([0], choices=1), purpose=purpose, family=joint)
        add(f"both at once, weight {weight:.3g}", [found], GRID)
    add("in turn", [run("in turn", lambda: InTurn(list(range(count))))])
    add("coin" if count == 2 else "equal rates", [run("coin", lambda: rates(count, problem.primary, 1 / count))])
    rate = best_rate(problem, trials)
    add(CONSTANT, [run("constant", lambda: rates(count, problem.primary, rate))], problem.budget)
    untrained = run_each("untrained", {seed: partial(problem.controller, seed) for seed in trials.untrained_seeds})
    add("untrained controller", untrained)
    seeds = problem.seeds
    timed = {seed: partial(trials.trained, problem, seed, features="time") for seed in seeds[:TIMED_SEEDS]}
    add(TIMED, run_each("time", timed), problem.budget)
    guided = run_each("learned", {seed: partial(trials.trained, problem, seed) for seed in seeds})
    add(LEARNED, guided, problem.budget)
    decided = {seed: _filled(ran, problem.steps) for seed, ran in zip(seeds, guided, strict=True)}
    replayed = {seed: partial(Recorded, done.roll(1, 0).T, count) for seed, done in decided.items()}
    add("its decisions of another trial", run_each("replayed", replayed), problem.budget)
    shuffled = {seed: partial(_shuffled, done, count, seed) for seed, done in decided.items()}
    add(SHUFFLED, run_each("shuffled", shuffled), problem.budget)
    return Contest(problem, purpose, rows, weight, rate)


def rates(count: int, primary: int, rate: float) -> ConstantRates:
    """The primary choice at a rate, all others equally often."""
    rest = (1 - rate) / max(1, count - 1)
    return ConstantRates([rate if number == primary else rest for number in range(count)])


def best_rate(problem: Problem, trials: Trials) -> float:
    """The constant rate of the primary choice whose validation is best, found with as many runs as a training takes."""
    family = problem.families("controller", problem.seed)
    count, each = len(family.choices), max(2, problem.budget // RATES)
    tried = np.linspace(0.02, 0.98, RATES)
    calls = {
        f"rate-{rate:.3f}": partial(
            trials.run,
            problem,
            f"rate-{rate:.3f}",
            partial(rates, count, problem.primary, float(rate)),
            purpose="controller",
            trials=each,
            stream="search",
        )
        for rate in tried
    }
    found = run_all(calls, title=f"{problem.title}: constant rates")
    return float(tried[int(np.argmin([_score(problem, ran) for ran in found.values()]))])


def best_weight(problem: Problem, trials: Trials, purpose: Purpose) -> float:
    """The weight of the penalty whose joint training validates best, by the published search."""
    made = problem.joint
    assert made is not None
    few = trials.preset == "smoke"
    scores: dict[float, float] = {}

    def search(weights: Sequence[float]) -> None:
        new = [weight for weight in (float(f"{weight:.6g}") for weight in weights) if weight not in scores]
        calls = {
            f"weight-{weight:.6g}": partial(
                trials.run,
                problem,
                f"weight-{weight:.6g}",
                partial(InTurn, [0], choices=1),
                purpose=purpose,
                family=made(purpose, problem.seed, weight),
                trials=1,
                stream="search",
            )
            for weight in new
        }
        found = run_all(calls, title=f"{problem.title}: weights").values()
        scores.update(zip(new, (_score(problem, ran) for ran in found), strict=True))

    def around() -> tuple[float, float]:
        ordered = sorted(scores)
        place = ordered.index(min(scores, key=lambda weight: scores[weight]))
        return ordered[max(0, place - 1)], ordered[min(len(ordered) - 1, place + 1)]

    search(np.geomspace(1e-3, 10, 3 if few else 20).tolist())
    search(np.geomspace(*around(), 2 if few else 17)[1:-1].tolist())
    search(np.linspace(*around(), 2 if few else 17)[1:-1].tolist())
    return min(scores, key=lambda weight: scores[weight])


def _score(problem: Problem, ran: Runs) -> float:
    """What is to be low."""
    goal = problem.families("controller", problem.seed).goal
    value = float((ran.metrics[goal.metric] + problem.price * ran.cost).mean())
    return value if goal.better == "lower" else -value


def _filled(ran: Runs, steps: int) -> torch.Tensor:
    """Decisions of each trial, `[trials, steps of a whole run]`: one that ended early goes round again."""
    assert ran.decisions is not None
    rows = []
    for row in torch.from_numpy(ran.decisions).long():
        kept = row[row >= 0]
        rows.append(kept.repeat(-(-steps // len(kept)))[:steps])
    return torch.stack(rows)


def _shuffled(decided: torch.Tensor, count: int, seed: int) -> RatesInTime:
    """Chance, at the shares of the decisions `[trials, steps]` in each step, the steps shuffled."""
    shares = torch.nn.functional.one_hot(decided, count).double().mean(0)  # [steps, choices]
    order = torch.from_numpy(Stream(seed, ("shuffle",)).generators()[0].permutation(len(shares)))
    return RatesInTime(shares[order].tolist())


def seconds_of(problem: Problem, trials: Trials, contests: Sequence[Contest]) -> float:
    """Wall time of everything that a problem's contests show."""
    runs = sum(run.seconds for contest in contests for row in contest.rows.values() for run in row.runs)
    trained = sum(
        trials.history(problem, seed, features=features)["seconds"]
        for features, seeds in (("state", problem.seeds), ("time", problem.seeds[:TIMED_SEEDS]))
        for seed in seeds
    )
    return runs + trained
