"""What the shipped policy of guided policy search is chosen by, of those that figure 0 has meta-trained.

    python scripts/choose_guided_policy.py --preset laptop

For tuned momentum and each policy: the mean objective over the steps of a trial on other starts of the training task,
and the objective on the way of a large network on digits, which come with the library. Neither is reported on.
"""

import argparse
from pathlib import Path

import torch

from l2o.curves import TrueObjective, run_curves
from l2o.experiments.guided_policy_search.baselines import mean_objective
from l2o.experiments.guided_policy_search.presets import PRESETS, training_family, true_objective
from l2o.experiments.guided_policy_search.shared import Shared
from l2o.rng import Stream
from l2o.tasks.data import load_dataset
from l2o.tasks.projected import ProjectedClassification


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--preset", choices=sorted(PRESETS), default="laptop")
    asked.add_argument("--results", type=Path, default=Path("results"), help="folder of all results")
    given = asked.parse_args()
    torch.set_num_threads(1)
    shared = Shared(given.preset, given.results, Path("runs"))
    steps, trained = shared.settings.tried, training_family(given.preset)
    digits = ProjectedClassification.large(load_dataset("digits", "train"))
    others, starts = Stream(4242, ("choosing",), tasks=range(12)), Stream(1, tasks=range(2))
    policies = {f"policy-{seed}": shared.policy(seed) for seed in shared.settings.policies}
    print(f"| optimizer | training task, mean over steps | digits, every {steps // 8} steps |\n| --- | --- | --- |")
    for name, rule in {"momentum": shared.momentum, **policies}.items():
        seen = true_objective(given.preset, trained)
        mean = mean_objective(run_curves(rule, trained, others, steps=steps, true_objective=seen))
        curves = run_curves(rule, digits, starts, steps=steps, true_objective=TrueObjective(steps // 8))
        assert curves.true_losses is not None
        way = " ".join(f"{value:.3f}" for value in curves.true_losses.mean(0).tolist())
        print(f"| {name} | {mean:.4f} | {way} |", flush=True)


if __name__ == "__main__":
    main()
