"""Builds the wheel and the source distribution, installs the wheel from an index into an empty environment, tests it.

    python scripts/check_distribution.py

The index is a server on this machine that has this wheel alone; dependencies come from wherever pip is set up to look,
at the versions of constraints.txt. The wheel that the source distribution builds must equal the one that the tree
builds, file by file. The tests run in a folder without the source: nothing but the installed package can answer.
"""

import argparse
import functools
import hashlib
import http.server
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import venv
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
QUICK = ("agent", "contract", "evaluation", "kernels", "methods", "optimizers", "processes", "schedules", "tasks")
"""Folders of tests that need the package alone, not the tree."""

SDIST = "import sys; from scikit_build_core.build import build_sdist; print(build_sdist(sys.argv[1]))"
PLACE = "import l2o, l2o.kernels.native as native; print(l2o.__file__); print(native.load() is not None)"


def call(command: Sequence[str | Path], folder: Path) -> str:
    """Runs a command and returns what it printed; its errors end this script."""
    print("$", *command, flush=True)
    done = subprocess.run([*map(str, command)], cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{done.stdout}\n{done.stderr}\nfailed with {done.returncode}")
    return done.stdout.strip()


def wheel(source: Path, folder: Path) -> Path:
    """Builds a wheel of a tree or of a source distribution."""
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    call([*build, f"--wheel-dir={folder}", source], ROOT)
    (built,) = folder.glob("*.whl")
    return built


def digests(built: Path) -> dict[str, str]:
    """sha256 of every file of a wheel, but for the list that holds them all."""
    with zipfile.ZipFile(built) as archive:
        names = [name for name in archive.namelist() if not name.endswith("/RECORD")]
        return {name: hashlib.sha256(archive.read(name)).hexdigest() for name in names}


@contextmanager
def index(built: Path, folder: Path) -> Iterator[str]:
    """Serves a wheel as a package index does; the address."""
    (folder / "simple" / "l2o").mkdir(parents=True)
    shutil.copy(built, folder / "simple" / "l2o")
    page = f'<!DOCTYPE html><a href="{built.name}">{built.name}</a>'
    (folder / "simple" / "l2o" / "index.html").write_text(page, encoding="utf-8")
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/simple/"
        server.shutdown()


def requirements(built: Path) -> list[str]:
    """What a wheel needs, its extras aside."""
    with zipfile.ZipFile(built) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith("METADATA")]
        lines = archive.read(name).decode().splitlines()
    found = [line.removeprefix("Requires-Dist: ") for line in lines if line.startswith("Requires-Dist: ")]
    return [line for line in found if "extra ==" not in line]


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sdist = folder / "sdist" / call([sys.executable, "-c", SDIST, folder / "sdist"], ROOT).splitlines()[-1]
        built, again = wheel(ROOT, folder / "tree"), wheel(sdist, folder / "again")
        ours, theirs = digests(built), digests(again)
        different = sorted(file for file in ours.keys() | theirs.keys() if ours.get(file) != theirs.get(file))
        if different or built.name != again.name:
            sys.exit(f"{sdist.name} builds another wheel than the tree: {', '.join(different) or again.name}")
        print(f"{sdist.name} builds the same {built.name}: {len(ours)} files, {built.stat().st_size / 1e6:.1f} MB")

        venv.create(folder / "empty", with_pip=True)
        python = folder / "empty" / "bin" / "python"
        install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        tools = ["pytest", "hypothesis", "tensorboard"]
        call([*install, "-c", ROOT / "constraints.txt", *requirements(built), *tools], folder)
        with index(built, folder / "served") as address:
            call([*install, "--no-cache-dir", "--index-url", address, "l2o"], folder)
        place, kernel = call([python, "-c", PLACE], folder).splitlines()
        if not place.startswith(str(folder / "empty")):
            sys.exit(f"l2o comes from {place}, not from the empty environment")
        print(f"installed from the index; native kernel: {kernel}")

        tests = folder / "tests"
        shutil.copytree(ROOT / "tests", tests, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", folder)
        chosen = [f"tests/{each}" for each in QUICK if (tests / each).exists()]
        output = call([python, "-m", "pytest", "-o", "addopts=-q --import-mode=importlib", *chosen], folder)
        print(re.sub(r"(?s).*\n", "", output))


if __name__ == "__main__":
    main()
