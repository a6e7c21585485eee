"""What a result's record says about where it came from: machine, commit, version."""

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path

import torch

UNKNOWN = "unknown"
_SOURCE = Path(__file__).resolve().parents[1]


def machine() -> str:
    """Processor, cores, threads in use, and versions, in one line."""
    return ", ".join(
        [
            processor(),
            _counted(os.cpu_count() or 1, "core"),
            _counted(torch.get_num_threads(), "thread"),
            f"Python {platform.python_version()}",
            f"torch {torch.__version__}",
            f"{platform.system()} {platform.release()}",
        ]
    )


def processor(description: Path = Path("/proc/cpuinfo")) -> str:
    """The processor's model as the operating system names it, or its architecture where that is not said."""
    try:
        lines = description.read_text(errors="replace").splitlines()
    except OSError:
        lines = []
    models = [value.strip() for key, _, value in (line.partition(":") for line in lines) if key.strip() == "model name"]
    return next(filter(None, models), "") or platform.processor() or platform.machine() or UNKNOWN


def commit(source: Path = _SOURCE) -> str:
    """The git commit that `source` was checked out from, with `+dirty` where it differs from it.

    "unknown" without git, without a commit, or where git does not track `source`: an installed package inside
    somebody's own repository is not of that repository's commit.
    """
    tracked = _git(source, "ls-files", "--", ".")
    revision = _git(source, "rev-parse", "--verify", "HEAD")
    changes = _git(source, "status", "--porcelain", "--", ".")
    if not tracked or not revision or changes is None:
        return UNKNOWN
    return f"{revision}+dirty" if changes else revision


def package_version() -> str:
    """The installed package's version, or "unknown" where it runs from a bare source tree."""
    try:
        return importlib.metadata.version("l2o")
    except importlib.metadata.PackageNotFoundError:
        return UNKNOWN


def _git(folder: Path, *arguments: str) -> str | None:
    """The output of a git command, or None if it failed. It takes no locks and so changes nothing."""
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
            env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"},
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
