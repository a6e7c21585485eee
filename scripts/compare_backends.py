"""Runs the smoke presets with the native kernel and with the reference, and sees whether the results agree.

    python scripts/compare_backends.py

Each experiment of "Optimizers cubed" runs twice, in processes of its own, with nothing different but `L2O_BACKEND`.
The final losses of every learned optimizer are paired by seed: the 95 % bootstrap interval of their mean difference
must hold 0, or lie within a thousandth of the loss, far below what any experiment reports: the two or three runs of a
smoke preset all differ in one direction every second to fourth time, by chance, be it in the last bits, and training
amplifies those. The meta-trained weights are compared as well; they drift apart with the number of meta-updates,
as any two computations do that differ in their last bits. (After one window the meta-gradients agree to 1e-5: a test.)
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from l2o import load
from l2o.evaluation.compare import Comparison
from l2o.evaluation.statistics import paired_bootstrap
from l2o.experiments.optimizers_cubed import EXPERIMENTS
from l2o.kernels import available

ROUNDING = 1e-3
"""Relative to the loss: no difference that matters."""


def reproduce(experiment: str, backend: str, folder: Path) -> Path:
    """Runs the smoke preset with a back end; its folder of results."""
    command = [sys.executable, "-m", "l2o.cli.main", "reproduce", experiment, "--preset", "smoke"]
    command += ["--out", str(folder / "results"), "--work", str(folder / "work"), "--threads", "1"]
    subprocess.run(command, env={**os.environ, "L2O_BACKEND": backend}, check=True, stdout=subprocess.DEVNULL)
    return folder / "results" / experiment / "smoke"


def differences(experiment: str, native: Path, reference: Path) -> bool:
    """Prints one line for each learned optimizer and table of curves; whether all agree."""
    agree = True
    for path in sorted(native.glob("curves*.npz")):
        mine, theirs = Comparison.load(path), Comparison.load(reference / path.name)
        for name in mine.losses:
            if "RNNprop" not in name and "L2O-DM" not in name:
                continue
            first, second = mine.measures(name, "final"), theirs.measures(name, "final")
            interval = paired_bootstrap(first, second)
            negligible = ROUNDING * float(np.abs(second).mean())
            holds = interval.low <= 0 <= interval.high or max(-interval.low, interval.high) < negligible
            agree &= holds
            print(
                f"{'agrees ' if holds else 'DIFFERS'} {experiment} {path.stem} {name}: native minus reference "
                f"{interval.estimate:.2e} [{interval.low:.2e}, {interval.high:.2e}], {len(first)} runs"
            )
    for path in sorted((native / "weights").glob("*.safetensors")):
        pair = [load(path).state_dict(), load(reference / "weights" / path.name).state_dict()]
        error = max(float((a - b).norm() / b.norm()) for a, b in zip(*(state.values() for state in pair), strict=True))
        print(f"        {experiment} {path.stem}: meta-trained weights differ by {error:.1e} at most, relative")
    return agree


def main() -> int:
    if not available().startswith("native"):
        print(f"nothing to compare: {available()}")
        return 1
    agree = True
    with tempfile.TemporaryDirectory() as folder:
        for experiment in EXPERIMENTS:
            pair = [reproduce(experiment, backend, Path(folder) / backend) for backend in ("native", "reference")]
            agree &= differences(experiment, *pair)
    print("PASSED: every interval holds 0, or is negligible" if agree else "FAILED")
    return 0 if agree else 1


if __name__ == "__main__":
    sys.exit(main())
