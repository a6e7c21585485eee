"""Trackers: one run of a service for one run, whatever interrupts it, and no run is lost to a service."""

import dataclasses
import json
import re
import sys
import warnings

import pytest

from l2o import ConstantHorizon, MetaAdam, MetaLoss, Plan, Quadratics, checkpoint, metatrain
from l2o.errors import ArgumentError, CheckpointError, DivergedError, UnsupportedError
from l2o.optimizers.dm import L2ODM
from l2o.tasks.base import TaskFamily
from l2o.tracking import MLflow, TensorBoard, Tracker, WandB, base
from l2o.tracking.base import flattened

PLAN = Plan(
    trajectories=4,
    horizon=ConstantHorizon(8, 4),
    tasks=3,
    meta_optimizer=MetaAdam(0.01, 0.001),
    validate_every=2,
    validation_tasks=2,
    validation_last=2,
    checkpoint_every=2,
)
EVENTS = 4 * 2 + 3


class ServiceError(Exception):
    pass


class StoppedError(Exception):
    pass


class Recorder(Tracker):
    """A service in a dictionary, which fails where it is told to."""

    service = "recorder"

    def __init__(self, directory, runs, *, fails=None, every=0.0):
        super().__init__(directory, every=every)
        self.runs, self.fails, self.calls = runs, fails, []

    def _called(self, name):
        self.calls.append(name)
        if name == self.fails:
            raise ServiceError(f"{name} is out of order")

    def open(self, run):
        self._called("open")
        run = run or f"run {len(self.runs)}"
        self.current = self.runs.setdefault(run, {"points": [], "files": [], "outcomes": []})
        return run

    def log(self, points):
        self._called("log")
        self.current["points"] += points

    def store(self, files):
        self._called("store")
        self.current["files"] += [file.name for file in files]

    def end(self, outcome):
        self._called("end")
        self.current["outcomes"].append(outcome)


def stop_at(number):
    def listen(event):
        if event["number"] == number:
            raise StoppedError

    return listen


def interrupted(event):
    if event["number"] == 5:
        raise KeyboardInterrupt


def train(directory=None, *listeners, family=None, plan=PLAN):
    return metatrain(
        L2ODM.for_quadratics(), family or Quadratics(3), MetaLoss(), plan, directory=directory, listeners=listeners
    )


def fingerprint(trained):
    return checkpoint.digest(trained.optimizer.state_dict()), trained.validations


def told(run):
    """A run's points, but for times."""
    return [
        (point.number, point.windows, {k: v for k, v in point.values.items() if k != "tasks_per_second"})
        for point in run["points"]
    ]


def test_every_number_of_every_event_is_kept_under_its_kind():
    runs, events = {}, []
    with Recorder(None, runs) as tracker:
        train(None, tracker, events.append)
    (run,) = runs.values()
    places = ("kind", "number", "trajectory", "windows", "window", "moments")
    assert told(run) == [
        (number, event["windows"], {f"{event['kind']}/{k}": v for k, v in event.items() if k not in places})
        for number, event in enumerate(events)
    ]
    assert len(run["points"]) == EVENTS
    assert {name for point in run["points"] for name in point.values} >= {
        "window/meta_loss", "window/learning_rate", "window/skipped", "window/diverged", "tasks_per_second",
        "validation/value", "validation/stage", "validation/diverged",
    }  # fmt: skip


def test_numbers_that_are_not_finite_are_left_out():
    runs = {}
    with Recorder(None, runs) as tracker:
        where = {"kind": "skipped", "number": 0, "trajectory": 0, "windows": 0}
        tracker({**where, "meta_loss": float("nan"), "norm": float("-inf"), "skipped": 1})
    assert [point.values for point in runs["run 0"]["points"]] == [{"skipped/skipped": 1.0}]


@pytest.mark.parametrize("every", [0.0, 1e6], ids=["at once", "in one batch"])
def test_a_run_killed_anywhere_and_resumed_is_one_run_without_doubled_points(every, tmp_path):
    whole = {}
    with Recorder(None, whole) as tracker:
        train(None, tracker)
    first_checkpoint = 4  # after the first validation and two windows
    for number in range(first_checkpoint, EVENTS):
        directory, runs = tmp_path / str(number), {}
        killed = Recorder(directory, runs, every=every)
        killed.__enter__()  # and nobody leaves it
        with pytest.raises(StoppedError):
            train(directory, killed, stop_at(number))
        with Recorder(directory, runs, every=every) as tracker:
            train(directory, tracker)
        assert list(runs) == ["run 0"]
        assert told(runs["run 0"]) == told(whole["run 0"])


def test_a_run_that_begins_again_is_another_run(tmp_path):
    runs = {}
    for _ in range(2):
        with Recorder(tmp_path, runs) as tracker:
            train(tmp_path, tracker)
        (tmp_path / "checkpoint.safetensors").unlink()
    assert list(runs) == ["run 0", "run 1"]
    assert told(runs["run 0"]) == told(runs["run 1"])
    with Recorder(None, runs) as tracker:
        train(None, tracker)
        train(None, tracker)
    assert [len(run["points"]) for run in runs.values()] == [EVENTS] * 4
    assert [run["outcomes"] for run in runs.values()] == [["stopped"]] * 4


@pytest.mark.parametrize("fails", ["open", "log", "store", "end"])
def test_a_service_that_fails_is_warned_of_once_and_costs_nothing(fails, tmp_path):
    tracker = Recorder(tmp_path, {}, fails=fails)
    with warnings.catch_warnings(record=True) as caught, tracker:
        warnings.simplefilter("always")
        trained = train(tmp_path, tracker)
        tracker.complete()
        tracker.__exit__(None, None, None)  # in here, to be caught too
    (warning,) = caught
    assert re.search(rf"recorder failed.*events\.jsonl has every event.*{fails} is out", str(warning.message))
    assert tracker.calls.count(fails) == 1
    assert tracker.calls[-1] == fails
    assert fingerprint(trained) == fingerprint(train())
    assert len((tmp_path / "events.jsonl").read_text().splitlines()) == EVENTS


def test_what_was_told_while_the_service_was_away_comes_later(tmp_path):
    runs, whole = {}, {}
    tracker = Recorder(tmp_path, runs, fails="open")
    with pytest.warns(UserWarning, match="open is out of order"), pytest.raises(StoppedError), tracker:
        train(tmp_path, tracker, stop_at(7))
    with Recorder(tmp_path, runs) as tracker:
        train(tmp_path, tracker)
    with Recorder(None, whole) as tracker:
        train(None, tracker)
    assert told(runs["run 0"]) == told(whole["run 0"])


def test_a_run_that_nobody_tracked_can_be_told_when_it_is_complete(tmp_path):
    runs, whole = {}, {}
    train(tmp_path)
    with Recorder(tmp_path, runs) as tracker:
        train(tmp_path, tracker)
        tracker.complete(tmp_path / "weights.toml")
    with Recorder(None, whole) as tracker:
        train(None, tracker)
    assert told(runs["run 0"]) == told(whole["run 0"])
    assert runs["run 0"]["files"] == ["weights.toml"]


class NeverFinite(TaskFamily):
    name = "never-finite"

    def init(self, instance, rng):
        return {"x": rng.normal((2,))}

    def loss(self, params, instance, batch):
        return (params["x"] * float("inf")).sum()


def test_a_service_learns_how_a_run_was_left():
    runs = {}
    with Recorder(None, runs) as tracker:
        train(None, tracker)
        tracker.complete()
    with Recorder(None, runs) as tracker:
        train(None, tracker)
    with pytest.raises(DivergedError), Recorder(None, runs) as tracker:
        train(None, tracker, family=NeverFinite(), plan=dataclasses.replace(PLAN, patience=3))
    with pytest.raises(KeyboardInterrupt), Recorder(None, runs) as tracker:
        train(None, tracker, interrupted)
    assert [run["outcomes"] for run in runs.values()] == [["complete"], ["stopped"], ["failed"], ["stopped"]]
    diverged = [point.values for point in runs["run 2"]["points"]]
    assert [values["skipped/skipped"] for values in diverged if "skipped/skipped" in values] == [1.0, 2.0, 3.0]
    assert {values["skipped/diverged"] for values in diverged if "skipped/diverged" in values} == {1.0}


def test_tasks_per_second_are_those_of_whole_trajectories_without_validations(monkeypatch):
    clock = iter([0.0, 2.0, 4.0, 14.0, 15.0, 16.5, 17.0])
    monkeypatch.setattr(base.time, "perf_counter", lambda: next(clock))
    runs = {}
    where = [("validation", 0, None), ("window", 0, 0), ("skipped", 0, 1), ("validation", 1, None), ("window", 1, 0),
             ("window", 1, 1), ("window", 2, 0)]  # fmt: skip
    with Recorder(None, runs) as tracker:
        for number, (kind, trajectory, window) in enumerate(where):
            event = {"kind": kind, "number": number, "trajectory": trajectory, "windows": number}
            tracker(event if window is None else {**event, "window": window, "tasks": 6})
    found = [point.values.get("tasks_per_second") for point in runs["run 0"]["points"]]
    assert found == [None, None, None, 6 / 4, None, None, 6 / 2.5]


def test_the_rate_of_a_trajectory_that_was_not_heard_whole_is_not_told():
    runs = {}
    with Recorder(None, runs) as tracker:
        for number, (trajectory, window) in enumerate([(0, 1), (0, 2), (1, 0)]):
            event = {"kind": "window", "trajectory": trajectory, "window": window, "windows": number, "tasks": 6}
            tracker({**event, "number": number})
    assert not any("tasks_per_second" in point.values for point in runs["run 0"]["points"])


def test_a_tracker_outside_its_block_is_refused():
    with pytest.raises(ArgumentError, match="a tracker of recorder needs its block: with"):
        train(None, Recorder(None, {}))


def test_a_damaged_memory_of_the_run_is_refused(tmp_path):
    for content in ("{", "[]", '{"run": "a"}', '{"run": "a", "events": null}'):
        (tmp_path / "tracking-recorder.json").write_text(content)
        with pytest.raises(CheckpointError, match=r"tracking-recorder\.json does not say which run.*delete it"):
            Recorder(tmp_path, {})


def test_nonsense_is_refused(tmp_path):
    with pytest.raises(ArgumentError, match=r"every is -1\.0"):
        Recorder(tmp_path, {}, every=-1.0)


@pytest.mark.parametrize(
    ("make", "package", "extra"),
    [(TensorBoard, "torch.utils.tensorboard", "tensorboard"), (MLflow, "mlflow", "mlflow"), (WandB, "wandb", "wandb")],
)
def test_a_missing_package_is_an_error_at_the_start_with_the_remedy(make, package, extra, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UnsupportedError, match=rf"needs the extra: pip install 'l2o\[{extra}\]'"):
        make(tmp_path)


def test_nested_configurations_get_dotted_names():
    assert flattened({"a": 1, "b": {"c": [2], "d": {"e": None}}}) == {"a": 1, "b.c": [2], "b.d.e": None}


def scalars(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # tensorboard's own, of NumPy and protobuf
        found = EventAccumulator(str(folder)).Reload()
    return {tag: [(event.step, event.value) for event in found.Scalars(tag)] for tag in found.Tags()["scalars"]}


def test_tensorboard_has_every_number_once_after_a_resume(tmp_path):
    killed = TensorBoard(tmp_path, every=0.0)
    killed.__enter__()
    with pytest.raises(StoppedError):
        train(tmp_path, killed, stop_at(8))
    with TensorBoard(tmp_path) as tracker:
        train(tmp_path, tracker)
        tracker.complete(tmp_path / "events.jsonl")
    found = scalars(tmp_path / "tensorboard" / "run-1")
    logged = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    for name in ("meta_loss", "learning_rate", "skipped"):
        wanted = {event["windows"]: event[name] for event in logged if event["kind"] == "window"}
        assert len(found[f"window/{name}"]) == len(wanted) == 8
        assert dict(found[f"window/{name}"]) == pytest.approx(wanted, rel=1e-6)  # kept in float32
    assert [step for step, _ in found["validation/value"]] == [0, 4, 8]
    (tmp_path / "checkpoint.safetensors").unlink()
    with TensorBoard(tmp_path) as tracker:
        train(tmp_path, tracker)
    assert scalars(tmp_path / "tensorboard" / "run-2")["window/meta_loss"] == found["window/meta_loss"]
