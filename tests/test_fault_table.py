"""The table of planted faults fits the source and the tests of today."""

import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

spec = importlib.util.spec_from_file_location("plant_faults", ROOT / "scripts" / "plant_faults.py")
assert spec is not None
assert spec.loader is not None
plant_faults = importlib.util.module_from_spec(spec)
spec.loader.exec_module(plant_faults)


def test_every_fault_fits_the_source() -> None:
    for fault in plant_faults.FAULTS:
        text = (ROOT / "src" / "l2o" / fault.file).read_text(encoding="utf-8")
        assert plant_faults.faulty(fault, text) != text  # raises where the text is not there exactly once


def test_every_fault_names_tests_that_exist() -> None:
    for fault in plant_faults.FAULTS:
        assert fault.tests
        for test in fault.tests:
            file, _, name = test.partition("::")
            assert f"def {name}(" in (ROOT / file).read_text(encoding="utf-8") if name else (ROOT / file).is_file()


def test_faults_have_names_of_their_own() -> None:
    names = [fault.name for fault in plant_faults.FAULTS]
    assert len(set(names)) == len(names) >= 30


def test_a_text_that_is_not_there_exactly_once_is_refused() -> None:
    fault = plant_faults.Fault("sign", "x.py", "a + b", "a - b", ())
    for text in ("a - b", "a + b or a + b"):
        with pytest.raises(plant_faults.StaleFaultError, match=r"'sign'.*not once"):
            plant_faults.faulty(fault, text)
    assert plant_faults.faulty(fault, "a + b") == "a - b"
