"""Time and memory of one iteration of guided policy search, part by part, at the size of a preset.

    python scripts/measure_guided_policy.py --preset paper --examples 20000

Memory is the largest resident size of the process while a part runs, sampled every 10 ms, so that each part counts what
the parts before it have left. The objective's gradient is computed in parts of 16,384 examples: more of them take
longer, not more memory.
"""

import argparse
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch

from l2o.experiments.guided_policy_search.presets import PRESETS, plan, search, training_family
from l2o.methods.guided_policy.cost import fit_cost
from l2o.methods.guided_policy.dual_search import constrained
from l2o.methods.guided_policy.dynamics import fit_dynamics
from l2o.methods.guided_policy.linearise import linearise_policy
from l2o.methods.guided_policy.search import _Iteration
from l2o.optimizers.handcrafted import Momentum
from l2o.optimizers.predicted_step import PredictedStep
from l2o.processes.optimizee import Optimizee
from l2o.rng import Stream

PAGE = 4096
_ROW = "| {:<62} | {:>8} | {:>8} |"


def resident() -> int:
    """Bytes of this process that lie in memory (Linux)."""
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * PAGE


@contextmanager
def part(title: str) -> Iterator[None]:
    """Prints how long the block took, and the most memory that the process had meanwhile."""
    most, over, begin = [resident()], threading.Event(), time.perf_counter()

    def watch() -> None:
        while not over.wait(0.01):
            most[0] = max(most[0], resident())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()
        print(
            _ROW.format(title, f"{time.perf_counter() - begin:.1f} s", f"{max(most[0], resident()) / 1e9:.2f} GB"),
            flush=True,
        )


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--preset", choices=sorted(PRESETS), default="laptop")
    asked.add_argument("--examples", type=int, help="of the objective's gradient, instead of the preset's")
    asked.add_argument("--steps", type=int, default=5, help="of the policy's regression, at most those of a pass")
    given = asked.parse_args()
    torch.set_num_threads(1)
    settings, made = PRESETS[given.preset], plan(given.preset, 1)
    method = search(given.preset, Momentum(0.3, momentum=0.5))
    method.exploration = replace(method.exploration, examples=given.examples or settings.examples)
    policy = PredictedStep(hidden=settings.hidden)
    print(_ROW.format("part", "time", "memory"))
    print("| --- | --- | --- |")
    with part("the data set, projected"):
        process = Optimizee.start(training_family(given.preset), Stream(1, tasks=range(made.tasks)))
    work = _Iteration(method, policy, process, settings.steps)
    group = work._group()
    with part("first controller: one batch of trajectories, its trial"):
        standing = work._begin(group)
    with part("trajectories: rollout, features, the objective's gradients"):
        samples, standing = work._sampled(standing, group)
    with part("dynamics"):
        dynamics = fit_dynamics(
            samples.states,
            samples.actions,
            window=method.fits.window,
            prior_window=method.fits.prior_window,
            known=None,
            alive=samples.alive,
        )
    with part("cost"):
        cost = fit_cost(
            method.fits.cost, samples.states, samples.actions, gradients=samples.slopes, alive=samples.alive
        ).cost
    with part("the policy along the trajectories, linearised"):
        means = samples.means(policy)
        linearise_policy(
            samples.states,
            means,
            actions=samples.actions,
            variance=standing.variance,
            window=method.fits.window,
            alive=samples.alive,
        )
    with part("control step: LQG and the search for the multiplier"):
        found = constrained(
            dynamics,
            cost,
            standing.controller,
            budget=method.fits.trust * settings.steps,
            multiplier=standing.multiplier,
        )
    proposed = replace(standing, controller=work._bounded(found.controller, samples))
    with part("trials of the new controllers"):
        judged, _ = work._judged(proposed, standing, group)
    with part("trials of their gains"):
        work._tried(judged, group)
    steps = min(given.steps, method.regression.steps)
    with part(f"{steps} of {method.regression.passes * method.regression.steps} steps of the policy's regression"):
        estimates = work._regress(samples, standing, {}, Stream(2))
        for _ in range(steps * -(-settings.steps // method.regression.truncate)):
            next(estimates)


if __name__ == "__main__":
    main()
