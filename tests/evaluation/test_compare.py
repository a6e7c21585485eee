import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from l2o.curves import Curves, run_curves
from l2o.errors import ArgumentError, DataError
from l2o.evaluation.compare import Comparison, compare
from l2o.evaluation.statistics import Interval, median
from l2o.evaluation.tuning import Tuning
from l2o.optimizers.handcrafted import SGD, Adam
from l2o.processes.optimizee import Optimizee
from l2o.rng import Stream
from l2o.tasks.quadratic import Quadratics
from l2o.trees import Tree

RNG = Stream(2, ("reported",), tasks=range(6))


def curves(losses: list[list[float]], **metrics: list[float]) -> Curves:
    leaves = {name: torch.tensor(values) for name, values in metrics.items()}
    return Curves(torch.tensor(losses, dtype=torch.float64), leaves, len(losses[0]), 0.002, 80)


MIXED = Comparison(
    {
        "steady": curves([[4.0, 2.0, 1.0], [4.0, 2.0, 1.0]], test_accuracy=[0.5, 1.0]),
        "fragile": curves([[4.0, 1.0, 0.5], [4.0, math.nan, math.nan]], test_accuracy=[0.5, math.nan]),
    },
    family="by hand",
    last=1,
    target=1.0,
)


def test_optimizers_meet_the_same_runs() -> None:
    both = compare({"a": SGD(0.01), "b": SGD(0.01)}, Quadratics(3), RNG, steps=25, target=5.0)
    np.testing.assert_array_equal(both.losses["a"], both.losses["b"])
    assert both.paired("final", "a", "b") == Interval(0, 0, 0, 6)
    assert (both.runs, both.steps) == (6, 25)


def test_a_comparison_holds_what_run_curves_gives() -> None:
    told: list[str] = []
    both = compare(
        {"sgd": SGD(0.01), "adam": Adam(0.1)}, Quadratics(3), RNG, steps=25, dtype=torch.float64, progress=told.append
    )
    direct = run_curves(Adam(0.1), Quadratics(3), RNG, steps=25, dtype=torch.float64)
    assert torch.equal(both.curves["adam"].losses, direct.losses)
    assert told == ["sgd", "adam"]


def test_a_curve_is_the_path_of_torchs_own_optimizer() -> None:
    found = run_curves(Adam(0.1), Quadratics(3), RNG, steps=25, dtype=torch.float64)
    process = Optimizee.start(Quadratics(3), RNG, dtype=torch.float64)
    x = torch.nn.Parameter(process.params["x"].clone())
    adam, losses = torch.optim.Adam([x], lr=0.1), []
    for _ in range(26):
        each = Quadratics(3).losses({"x": x}, process.instance, {})
        losses.append(each.detach())
        x.grad = torch.autograd.grad(each.sum(), x)[0]
        adam.step()
    torch.testing.assert_close(found.losses, torch.stack(losses, dim=1), rtol=1e-9, atol=1e-12)


def test_costs_of_a_curve_are_those_of_one_task() -> None:
    found = run_curves(Adam(0.1), Quadratics(3), RNG, steps=25, dtype=torch.float64)
    assert found.evaluations == 26
    assert found.state_bytes == 8 * (3 + 3 + 1)  # two moments for each coordinate, one step


def test_curves_do_not_depend_on_how_many_tasks_run_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    class Measured(Quadratics):
        def metrics(self, params: Tree, instance: Tree) -> Tree:
            return {"first": params["x"][:, 0]}

    whole = run_curves(Adam(0.1), Measured(3), RNG, steps=5, dtype=torch.float64)
    monkeypatch.setattr("l2o.curves.COORDINATES_AT_ONCE", 4 * 3)  # four tasks, then two
    parts = run_curves(Adam(0.1), Measured(3), RNG, steps=5, dtype=torch.float64)
    torch.testing.assert_close(parts.losses, whole.losses, rtol=1e-12, atol=0)
    torch.testing.assert_close(parts.metrics, whole.metrics, rtol=1e-12, atol=0)
    assert (parts.evaluations, parts.state_bytes) == (whole.evaluations, whole.state_bytes)


def test_paired_intervals_are_first_minus_second() -> None:
    assert MIXED.paired("final", "steady", "fragile").estimate == -math.inf
    assert MIXED.paired("final", "fragile", "steady", median).estimate == math.inf
    twice = Comparison({"a": curves([[2.0, 2.0]] * 3), "b": curves([[1.0, 1.0]] * 3)}, "by hand", 1)
    area = twice.paired("area", "a", "b")
    assert (area.estimate, area.low, area.high) == pytest.approx([math.log(2)] * 3)


def test_loss_rows_show_a_failure_in_every_column_that_it_touches() -> None:
    steady, fragile = MIXED.loss_rows()
    assert steady["final loss, mean"] == Interval(1, 1, 1, 2)
    assert steady["diverged"] == "0 of 2"
    assert steady["reached 1"] == "2 of 2"
    assert steady["steps to 1, median"] == Interval(2, 2, 2, 2)
    assert steady["test accuracy"] == Interval(0.75, 0.5, 1.0, 2)
    assert fragile["final loss, mean"] == Interval(math.inf, 0.5, math.inf, 2)
    assert fragile["area, mean"] == Interval(math.inf, pytest.approx(math.log(2) / 3), math.inf, 2)
    assert fragile["diverged"] == "1 of 2"
    assert fragile["reached 1"] == "1 of 2"
    assert fragile["test accuracy"] == "undefined in 1 of 2"


def test_logarithms_are_left_out_of_all_rows_where_a_loss_is_negative() -> None:
    rows = Comparison({"a": curves([[1.0, -1.0]]), "b": curves([[1.0, 0.5]])}, "by hand", 1).loss_rows()
    for row in rows:
        assert list(row) == ["optimizer", "final loss, mean", "final loss, median", "final loss, IQM", "diverged"]


def test_cost_rows_state_the_price_of_running_and_of_tuning() -> None:
    tuning = Tuning("final", 0.25, {0.125: 2.0, 0.25: 1.0}, 600, 12, 0, True)
    steady, fragile = MIXED.cost_rows({"steady": tuning})
    assert steady == {
        "optimizer": "steady",
        "ms per step": 2.0,
        "state bytes": 80,
        "gradient evaluations per run": 3,
        "tuned value": "0.25 (on the grid's edge)",
        "tuned by": "final",
        "values tried": 2,
        "tuning runs": 12,
        "tuning gradient evaluations": 600,
    }
    assert fragile["tuned value"] == "not tuned"
    assert list(fragile) == list(steady)
    assert "tuned value" not in MIXED.cost_rows()[0]


def test_the_note_says_what_the_numbers_are() -> None:
    assert "2 runs of 2 steps on by hand" in MIXED.note
    assert "10,000 resamples" in MIXED.note


def test_saved_curves_are_loaded_exactly(tmp_path: Path) -> None:
    MIXED.save(tmp_path / "curves.npz")
    loaded = Comparison.load(tmp_path / "curves.npz")
    assert (loaded.family, loaded.last, loaded.target) == ("by hand", 1, 1.0)
    assert list(loaded.curves) == ["steady", "fragile"]
    for name, saved in MIXED.curves.items():
        again = loaded.curves[name]
        np.testing.assert_array_equal(again.losses.numpy(), saved.losses.numpy(), strict=True)
        np.testing.assert_array_equal(again.metrics["test_accuracy"], saved.metrics["test_accuracy"], strict=True)
        costs = (saved.evaluations, saved.seconds_per_step, saved.state_bytes)
        assert (again.evaluations, again.seconds_per_step, again.state_bytes) == costs


def test_true_objective_and_loss_evaluations_are_saved_too(tmp_path: Path) -> None:
    true = torch.tensor([[4.0, 1.0]], dtype=torch.float64)
    searched = replace(curves([[4.0, 2.0, 1.0]]), loss_evaluations=7, true_losses=true, true_every=2)
    both = Comparison({"searched": searched, "plain": curves([[4.0, 2.0, 1.0]])}, "by hand", 1)
    both.save(tmp_path / "curves.npz")
    again = Comparison.load(tmp_path / "curves.npz").curves
    assert (again["searched"].loss_evaluations, again["searched"].true_every) == (7, 2)
    assert torch.equal(again["searched"].true_losses, true)
    assert (again["plain"].loss_evaluations, again["plain"].true_losses, again["plain"].true_every) == (0, None, None)
    assert [row["loss evaluations per run"] for row in both.cost_rows()] == [7, 0]
    assert all("loss evaluations per run" not in row for row in MIXED.cost_rows())


def test_files_from_before_line_searches_are_still_read(tmp_path: Path) -> None:
    MIXED.save(tmp_path / "new.npz")
    with np.load(tmp_path / "new.npz") as arrays:
        parts = dict(arrays)
    header = json.loads(str(parts["header"]))
    for entry in header["optimizers"]:
        del entry["loss_evaluations"], entry["true_every"]
    np.savez(tmp_path / "old.npz", **{**parts, "header": np.array(json.dumps(header))})
    again = Comparison.load(tmp_path / "old.npz").curves["steady"]
    assert (again.loss_evaluations, again.true_losses) == (0, None)
    np.testing.assert_array_equal(again.losses.numpy(), MIXED.losses["steady"])


def test_saving_twice_gives_equal_files(tmp_path: Path) -> None:
    MIXED.save(tmp_path / "a.npz")
    MIXED.save(tmp_path / "b.npz")
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


def test_any_name_of_an_optimizer_survives(tmp_path: Path) -> None:
    odd = Comparison({"../x, lr 1/2 \N{GREEK SMALL LETTER ETA}": curves([[1.0, 0.5]])}, "by hand", 1)
    odd.save(tmp_path / "curves.npz")
    assert list(Comparison.load(tmp_path / "curves.npz").curves) == list(odd.curves)


def test_a_foreign_or_broken_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "curves.npz"
    MIXED.save(path)
    blob = path.read_bytes()
    for broken in (blob[: len(blob) // 2], b"not a zip", b""):
        path.write_bytes(broken)
        with pytest.raises(DataError, match="not a whole file of curves"):
            Comparison.load(path)
    np.savez(path, header=np.array('{"format": "l2o-comparison-0"}'))
    with pytest.raises(DataError, match="its format is 'l2o-comparison-0'"):
        Comparison.load(path)


def test_a_pickle_is_never_loaded(tmp_path: Path) -> None:
    np.savez(tmp_path / "curves.npz", header=np.array([{"format": "l2o-comparison-1"}], dtype=object))
    with pytest.raises(DataError, match="allow_pickle=False"):
        Comparison.load(tmp_path / "curves.npz")


def test_what_cannot_be_compared_is_refused() -> None:
    with pytest.raises(ArgumentError, match="optimizers is empty"):
        compare({}, Quadratics(3), RNG, steps=25)
    with pytest.raises(ArgumentError, match="last is 20"):
        compare({"a": SGD(0.1)}, Quadratics(3), RNG, steps=5)
    with pytest.raises(ArgumentError, match="no optimizer 'other'"):
        MIXED.paired("final", "steady", "other")
    with pytest.raises(ArgumentError, match="equally many runs"):
        Comparison({"a": curves([[1.0, 1.0]]), "b": curves([[1.0]])}, "by hand", 1)
    with pytest.raises(ArgumentError, match="last is 3"):
        Comparison({"a": curves([[1.0, 1.0]])}, "by hand", 3)
