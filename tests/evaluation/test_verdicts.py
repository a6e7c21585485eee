import json
import math
from pathlib import Path

import numpy as np
import pytest

from l2o.errors import ArgumentError, DataError
from l2o.evaluation.verdicts import Verdict, Verdicts, read_verdicts, write_verdicts

PLAIN = Verdict("It is below Adam.", "interval of the difference below 0", -0.5, 10, True)
PLAIN_PAIRS = [
    ("claim", "It is below Adam."),
    ("criterion", "interval of the difference below 0"),
    ("measured", -0.5),
    ("runs", 10),
    ("passed", True),
]
FULL = Verdict("It is below SGD.", "median below 0", math.inf, 3, False, (-math.inf, 2.0), "one seed")


def write(path: Path, *verdicts: Verdict) -> None:
    facts = {"experiment": "paper/figure", "preset": "smoke", "seeds": [1, 2], "seconds": 2.5}
    write_verdicts(path, verdicts, **facts, commit="abc", machine="a machine")


def test_the_file_has_the_keys_that_were_agreed_in_order(tmp_path: Path) -> None:
    write(tmp_path / "verdict.json", PLAIN)
    pairs = json.loads((tmp_path / "verdict.json").read_text(), object_pairs_hook=list)
    assert pairs == [
        ("experiment", "paper/figure"),
        ("preset", "smoke"),
        ("commit", "abc"),
        ("seeds", [1, 2]),
        ("seconds", 2.5),
        ("machine", "a machine"),
        ("verdicts", [PLAIN_PAIRS]),
    ]


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    write(tmp_path / "verdict.json", PLAIN, FULL)
    record = read_verdicts(tmp_path / "verdict.json")
    assert record == Verdicts("paper/figure", "smoke", "abc", (1, 2), 2.5, "a machine", (PLAIN, FULL))
    assert record.passed == 1


def test_numbers_that_json_cannot_say_are_strings(tmp_path: Path) -> None:
    write(tmp_path / "verdict.json", FULL, Verdict("c", "d", math.nan, 1, False))
    content = json.loads((tmp_path / "verdict.json").read_text(), parse_constant=pytest.fail)
    assert content["verdicts"][0]["measured"] == "inf"
    assert content["verdicts"][0]["interval"] == ["-inf", 2.0]
    assert content["verdicts"][1]["measured"] == "nan"
    measured = read_verdicts(tmp_path / "verdict.json").verdicts[1].measured
    assert isinstance(measured, float)
    assert math.isnan(measured)


def test_numpys_numbers_are_written_as_plain_ones(tmp_path: Path) -> None:
    bare = Verdict("c", "d", float(np.float64(1.5)), int(np.int64(4)), bool(np.True_))
    write(tmp_path / "a.json", bare)
    write(tmp_path / "b.json", Verdict("c", "d", np.float64(1.5), np.int64(4), np.True_))  # pyright: ignore[reportArgumentType]
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()


def test_a_measurement_may_be_words(tmp_path: Path) -> None:
    write(tmp_path / "verdict.json", Verdict("None diverges.", "0 of 10", "2 of 10", 10, False))
    assert read_verdicts(tmp_path / "verdict.json").verdicts[0].measured == "2 of 10"


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"experiment": "a"}', '{"verdicts": 3}', "null"])
def test_another_file_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "verdict.json").write_text(text)
    with pytest.raises(DataError, match="is not a verdict file"):
        read_verdicts(tmp_path / "verdict.json")


@pytest.mark.parametrize(("claim", "criterion", "runs"), [("", "d", 1), ("c", "", 1), ("c", "d", 0)])
def test_a_verdict_without_claim_criterion_or_runs_is_refused(claim: str, criterion: str, runs: int) -> None:
    with pytest.raises(ArgumentError, match=r"must both be said|at least one run"):
        Verdict(claim, criterion, 0.0, runs, True)
