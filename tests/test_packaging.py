"""A wheel holds the whole package and the kernels that were built for it; without a compiler it holds the package."""

import os
import platform
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src"
KERNELS = {"l2o/kernels/_lstm_avx2.so", "l2o/kernels/_lstm_avx512.so"}
PACKAGE = {
    path.relative_to(SOURCE).as_posix()
    for path in SOURCE.rglob("*")
    if path.suffix in {".py", ".j2", ".js", ".css", ".safetensors", ".toml"}
}
BUILDS_KERNELS = platform.machine() in {"x86_64", "AMD64"} and shutil.which("c++") is not None
LOADED = """
import ctypes, sys, torch
ctypes.CDLL(sys.argv[1])
maps = open("/proc/self/maps").read().splitlines()
print(len({line.split()[-1] for line in maps if "libgomp" in line}), (torch.tensor([2e-40]) * 1).item() > 0)
"""
COMPILERS = {
    "missing": None,
    "broken": "exit 1",
    "unfit for the kernel": 'case "$*" in *lstm.cpp*) exit 1;; esac; exec c++ "$@"',
}


def build(folder: Path, **variables: str) -> tuple[Path, set[str]]:
    """A wheel of this tree, and the files of the package in it."""
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", f"--wheel-dir={folder}", "."]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, **variables})
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = folder.glob("*.whl")
    return wheel, {name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("l2o/")}


@pytest.mark.skipif(not BUILDS_KERNELS, reason="kernels are built on x86_64 alone, with a compiler")
def test_a_wheel_holds_the_package_and_kernels_for_any_python_and_one_openmp(tmp_path):
    wheel, names = build(tmp_path)
    assert names == PACKAGE | KERNELS
    assert "-py3-none-" in wheel.name
    assert not wheel.name.endswith("-any.whl")
    if sys.platform != "linux":
        return
    for kernel in sorted(KERNELS):
        path = zipfile.ZipFile(wheel).extract(kernel, tmp_path)
        done = subprocess.run([sys.executable, "-c", LOADED, path], capture_output=True, text=True, check=True)
        assert done.stdout.split() == ["1", "True"]  # torch's OpenMP is the only one; subnormal numbers are not flushed


@pytest.mark.parametrize("compiler", COMPILERS)
def test_without_a_compiler_that_works_a_wheel_holds_the_package_alone(compiler, tmp_path):
    path, script = tmp_path / "c++", COMPILERS[compiler]
    if script is not None:
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
    wheel, names = build(tmp_path / "wheel", CXX=str(path))
    assert names == PACKAGE  # not even what an editable install left in the source tree
    assert "-py3-none-" in wheel.name
