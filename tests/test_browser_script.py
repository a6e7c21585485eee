"""Where the browser for report pages comes from."""

import os
import shutil
import subprocess

import pytest

from scripts import browser


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch):
    """A machine with these programs, on which apt-get brings Chromium; returns the commands that were run."""
    ran: list[list[str]] = []

    def become(*programs: str, ci: str = "", root: bool = True, works: bool = True) -> list[list[str]]:
        there = set(programs)

        def run(command: list[str], check: bool) -> None:
            ran.append(command)
            if works and "install" in command:
                there.add("chromium")

        monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}" if name in there else None)
        monkeypatch.setattr(os, "geteuid", lambda: 0 if root else 1000)
        monkeypatch.setattr(subprocess, "run", run)
        monkeypatch.setenv("CI", ci)
        return ran

    return become


@pytest.mark.parametrize("name", browser.NAMES)
def test_a_browser_that_is_there_is_used_and_nothing_is_installed(machine, capsys, name: str) -> None:
    ran = machine(name, "apt-get", ci="true")
    assert browser.main() == 0
    assert capsys.readouterr().out == f"/usr/bin/{name}\n"
    assert ran == []


def test_as_root_in_continuous_integration_it_is_installed(machine) -> None:
    ran = machine("apt-get", ci="true")
    assert browser.main() == 0
    assert [command[1] for command in ran] == ["update", "install"]
    assert "chromium" in ran[1]


@pytest.mark.parametrize(
    ("programs", "options"),
    [
        (["apt-get"], {}),
        (["apt-get"], {"ci": "1"}),
        (["apt-get"], {"ci": "true", "root": False}),
        ([], {"ci": "true"}),
    ],
)
def test_anywhere_else_the_remedy_is_told_and_nothing_is_run(machine, capsys, programs, options) -> None:
    ran = machine(*programs, **options)
    assert browser.main() == 1
    assert "apt-get install -y chromium" in capsys.readouterr().err
    assert ran == []


def test_an_installation_that_fails_is_told(machine, capsys) -> None:
    ran = machine("apt-get", ci="true", works=False)
    assert browser.main() == 1
    assert len(ran) == 2
    assert "no browser on PATH" in capsys.readouterr().err
