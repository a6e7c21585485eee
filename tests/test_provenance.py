"""Provenance: machine, version and commit are said, or said to be unknown."""

import subprocess

import torch

from l2o import provenance


def test_the_machine_names_threads_and_versions():
    line = provenance.machine()
    assert torch.__version__ in line
    assert "1 torch threads" in line


def test_outside_a_checkout_the_commit_is_unknown(monkeypatch):
    def fail(*arguments, **options):
        raise subprocess.CalledProcessError(128, "git")

    provenance.source_commit.cache_clear()
    monkeypatch.setattr(subprocess, "run", fail)
    assert provenance.source_commit() == "unknown"
    provenance.source_commit.cache_clear()


def test_inside_a_checkout_it_is_a_commit():
    provenance.source_commit.cache_clear()
    commit = provenance.source_commit()
    assert commit == "unknown" or len(commit.removesuffix("+dirty")) == 40


def test_uninstalled_the_version_is_unknown(monkeypatch):
    def fail(name):
        raise provenance.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(provenance.metadata, "version", fail)
    assert provenance.package_version() == "unknown"
