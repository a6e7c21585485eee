"""Where a result comes from: the machine, the software, the commit."""

import os
import platform
import subprocess
from functools import cache
from importlib import metadata
from pathlib import Path

import torch


@cache
def source_commit() -> str:
    """The git commit of the source tree that runs, with `+dirty` if it was changed; "unknown" outside a checkout."""
    folder = Path(__file__).resolve().parent
    try:
        commit = _git(folder, "rev-parse", "HEAD")
        tracked = _git(folder, "ls-files", "--error-unmatch", "__init__.py")
        dirty = _git(folder, "status", "--porcelain", "--untracked-files=no", ".")
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return f"{commit}{'+dirty' if dirty else ''}" if tracked else "unknown"


def package_version() -> str:
    """The installed version of l2o; "unknown" when it runs uninstalled."""
    try:
        return metadata.version("l2o")
    except metadata.PackageNotFoundError:
        return "unknown"


def machine() -> str:
    """Processor, cores, threads and software in one line."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return (
        f"{_processor()}, {cores} cores, {torch.get_num_threads()} torch threads; {platform.system()}; "
        f"Python {platform.python_version()}, torch {torch.__version__}"
    )


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _git(folder: Path, *words: str) -> str:
    done = subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, timeout=10, check=True)
    return done.stdout.strip()
