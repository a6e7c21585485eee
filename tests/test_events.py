"""Events: the log, the progress bar."""

import json

from l2o.events import JsonLines
from l2o.progress import ProgressBar

WINDOW = {"kind": "window", "trajectory": 1, "windows": 4, "meta_loss": 2.5, "window": 0}


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_numbers_that_are_not_finite_are_null(tmp_path):
    log = JsonLines(tmp_path / "deep" / "events.jsonl")
    log({**WINDOW, "meta_loss": float("nan"), "norm": float("-inf"), "zero": 0.0})
    assert lines(tmp_path / "deep" / "events.jsonl") == [{**WINDOW, "meta_loss": None, "norm": None, "zero": 0.0}]


def test_a_log_is_rewound_to_a_position(tmp_path):
    path = tmp_path / "events.jsonl"
    log = JsonLines(path)
    log(WINDOW)
    position = log.position()
    log({**WINDOW, "windows": 5})
    JsonLines(path).rewind(position)
    assert lines(path) == [WINDOW]
    log.rewind(position + 1000)
    assert lines(path) == [WINDOW]


def test_the_bar_shows_meta_loss_best_validation_and_rate(capsys):
    with ProgressBar(4, "learned") as bar:
        bar(WINDOW)
        bar({"kind": "validation", "trajectory": 4, "windows": 16, "value": 0.7, "best": 0.5, "diverged": 0.0})
    out = capsys.readouterr().out
    for text in ("learned", "4/4", "meta-loss 2.5", "best validation 0.5"):
        assert text in out
