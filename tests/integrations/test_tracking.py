"""MLflow and Weights & Biases themselves, on stores of this machine: nothing goes over a network."""

import contextlib
import json
import os
import socket
import struct
import subprocess
import sys
import threading
import time
import warnings

import pytest

from l2o import ConstantHorizon, L2OError, MetaAdam, MetaLoss, Plan, Quadratics, metatrain, save
from l2o.optimizers.dm import L2ODM
from l2o.tracking import MLflow, WandB

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

# What the packages' own dependencies warn of is not ours.
pytestmark = pytest.mark.filterwarnings("default")


class StoppedError(Exception):
    pass


def stop_at(number):
    def listen(event):
        if event["number"] == number:
            raise StoppedError

    return listen


def train(directory, *listeners):
    return metatrain(L2ODM.for_quadratics(), Quadratics(3), MetaLoss(), PLAN, directory=directory, listeners=listeners)


def interrupted_and_resumed(make, directory):
    """A run that is stopped by an error, goes on, and is complete; its events by number."""
    with contextlib.suppress(StoppedError), make() as tracker:
        train(directory, tracker, stop_at(7))
    with warnings.catch_warnings(record=True) as caught, make() as tracker:
        warnings.simplefilter("always", UserWarning)
        trained = train(directory, tracker)
        save(trained.optimizer, directory / "weights", trained.card)
        tracker.complete(directory / "weights.safetensors", directory / "weights.toml")
        tracker.__exit__(None, None, None)
    assert [str(warning.message) for warning in caught if "is told no more" in str(warning.message)] == []
    return [json.loads(line) for line in (directory / "events.jsonl").read_text().splitlines()]


def by_windows(events, kind, name):
    return [(event["windows"], event[name]) for event in events if event["kind"] == kind]


# ---- MLflow


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    pytest.importorskip("mlflow")
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow') / 'store.db'}"


@pytest.fixture
def client(store):
    from mlflow import MlflowClient

    return MlflowClient(store)


def runs_of(client, experiment):
    found = client.get_experiment_by_name(experiment)
    return [] if found is None else client.search_runs([found.experiment_id])


def artifact_store(client, experiment, folder):
    client.create_experiment(experiment, artifact_location=folder.as_uri())
    return experiment


def test_mlflow_has_one_run_with_every_number_once_and_the_files(client, store, tmp_path):
    experiment = artifact_store(client, "resumed", tmp_path / "artifacts")
    directory = tmp_path / "quadratics"
    configuration = {"task": {"task": "quadratics"}, "tasks": 3}
    events = interrupted_and_resumed(
        lambda: MLflow(directory, uri=store, experiment=experiment, configuration=configuration), directory
    )
    (run,) = runs_of(client, experiment)
    assert (run.info.run_name, run.info.status) == ("quadratics", "FINISHED")
    assert run.data.params == {"task.task": "quadratics", "tasks": "3"}
    for kind, name in [("window", "meta_loss"), ("window", "learning_rate"), ("window", "skipped"),
                       ("window", "diverged"), ("validation", "value"), ("validation", "stage")]:  # fmt: skip
        history = client.get_metric_history(run.info.run_id, f"{kind}/{name}")
        assert sorted((metric.step, metric.value) for metric in history) == by_windows(events, kind, name)
    assert client.get_metric_history(run.info.run_id, "tasks_per_second")
    kept = {file.path for file in client.list_artifacts(run.info.run_id)}
    assert kept == {"weights.safetensors", "weights.toml"}
    stored = tmp_path / "artifacts" / run.info.run_id / "artifacts" / "weights.safetensors"
    assert stored.read_bytes() == (directory / "weights.safetensors").read_bytes()


def test_mlflow_tells_how_a_run_was_left(client, store, tmp_path):
    experiment = artifact_store(client, "left", tmp_path / "artifacts")
    with contextlib.suppress(StoppedError), MLflow(tmp_path / "failed", uri=store, experiment=experiment) as tracker:
        train(tmp_path / "failed", tracker, stop_at(7))
    with MLflow(tmp_path / "stopped", uri=store, experiment=experiment) as tracker:
        train(tmp_path / "stopped", tracker)
    assert {run.info.run_name: run.info.status for run in runs_of(client, experiment)} == {
        "failed": "FAILED",
        "stopped": "KILLED",
    }


def test_an_mlflow_run_that_was_deleted_is_warned_of_and_costs_nothing(client, store, tmp_path):
    experiment = artifact_store(client, "deleted", tmp_path / "artifacts")
    directory = tmp_path / "run"
    with contextlib.suppress(StoppedError), MLflow(directory, uri=store, experiment=experiment) as tracker:
        train(directory, tracker, stop_at(7))
    (run,) = runs_of(client, experiment)
    client.delete_run(run.info.run_id)
    tracker = MLflow(directory, uri=store, experiment=experiment)
    with pytest.warns(UserWarning, match="mlflow failed and is told no more"), tracker:
        trained = train(directory, tracker)
    assert trained.finished


# ---- Weights & Biases


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """No key, no network: what would go out goes to a proxy that counts, and is to count nothing."""
    pytest.importorskip("wandb")
    calls, proxy = [], socket.create_server(("127.0.0.1", 0))

    def count():
        with contextlib.suppress(OSError):
            while True:
                connection, _ = proxy.accept()
                calls.append(connection.recv(200))
                connection.close()

    threading.Thread(target=count, daemon=True).start()
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.getsockname()[1]}")
    for name in ("NO_PROXY", "no_proxy", "WANDB_API_KEY", "WANDB_SERVICE"):  # the last: another test's W&B process
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    for name in ("WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    yield
    proxy.close()
    assert calls == []


def records(path):
    """The records of a session's `.wandb` file, once W&B's own process has written the last of them."""
    deadline = time.monotonic() + 60
    while not (found := list(read(path))) or found[-1].WhichOneof("record_type") != "exit":
        assert time.monotonic() < deadline, f"{path} has no end"
        time.sleep(0.1)
    return found


def read(path):
    """The whole records in a file of LevelDB's log format: blocks of 32 KiB, seven bytes before the first."""
    from wandb.proto.wandb_internal_pb2 import Record

    blob, at, whole = path.read_bytes(), 7, b""
    while at + 7 <= len(blob):
        left = 32768 - at % 32768
        if left < 7:
            at += left
            continue
        _, length, kind = struct.unpack_from("<IHB", blob, at)
        if at + 7 + length > len(blob):
            return
        whole += blob[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # a record in one piece, or the last piece of one
            yield Record.FromString(whole)
            whole = b""


def history_of(path):
    """The rows that a run logged, as names and values."""
    for record in records(path):
        if record.WhichOneof("record_type") == "history":
            items = record.history.item
            yield {"/".join(item.nested_key): json.loads(item.value_json) for item in items}


def test_wandb_offline_has_one_run_with_every_number_once_and_the_files(offline, tmp_path):
    events = interrupted_and_resumed(lambda: WandB(tmp_path, configuration={"tasks": 3}), tmp_path)
    run = json.loads((tmp_path / "tracking-wandb.json").read_text())
    assert run["events"] == EVENTS
    files = sorted((tmp_path / "wandb").glob(f"offline-run-*/run-{run['run']}.wandb"))
    assert len(files) == 2  # W&B begins a folder for each session; `wandb sync` puts them together by the run's name
    rows = [row for file in files for row in history_of(file)]
    assert [row["_step"] for row in rows] == list(range(EVENTS))
    for kind, name in [("window", "meta_loss"), ("window", "learning_rate"), ("validation", "value")]:
        found = [(row["windows"], row[f"{kind}/{name}"]) for row in rows if f"{kind}/{name}" in row]
        assert found == by_windows(events, kind, name)
    begun = [record.run for file in files for record in records(file) if record.WhichOneof("record_type") == "run"]
    assert {(record.run_id, record.project, record.display_name) for record in begun} == {
        (run["run"], "l2o", tmp_path.name)
    }
    kept = [record for file in files for record in records(file) if record.WhichOneof("record_type") == "artifact"]
    assert [record.artifact.name for record in kept] == [f"l2o-{run['run']}"]
    assert {file.path for file in kept[0].artifact.manifest.contents} == {"weights.safetensors", "weights.toml"}


def test_wandb_without_a_key_is_refused_at_the_start(offline, monkeypatch, tmp_path):
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    with pytest.raises(L2OError, match=r"knows no key: run `wandb login`, or set WANDB_MODE=offline"):
        WandB(tmp_path)


def test_the_command_line_tracks_with_all_services_offline(offline, tmp_path):
    arguments = ["train", "--task", "quadratics", "--threads", "1", "--optimizer", "dm-quadratics", "--trajectories",
                 "2", "--horizon", "8", "--window", "4", "--validation-tasks", "2", "--validation-last", "2",
                 "--validate-every", "1", "--out", "run", "--track", "mlflow", "wandb", "tensorboard"]  # fmt: skip
    program = "import sys; from l2o.cli.main import main; sys.exit(main(sys.argv[1:]))"
    here = {"MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path / 'store.db'}", "MLFLOW_EXPERIMENT_NAME": "from the shell"}
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], cwd=tmp_path, env={**os.environ, **here}, capture_output=True,
        text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "is told no more" not in done.stderr
    from mlflow import MlflowClient

    client = MlflowClient(here["MLFLOW_TRACKING_URI"])
    (run,) = runs_of(client, "from the shell")
    assert run.data.params["task.task"] == "quadratics"
    assert {file.path for file in client.list_artifacts(run.info.run_id)} == {
        "weights.safetensors", "weights.toml", "meta-training.png"
    }  # fmt: skip
    (path,) = (tmp_path / "run" / "wandb").glob("offline-run-*/*.wandb")
    assert len(list(history_of(path))) == len((tmp_path / "run/events.jsonl").read_text().splitlines())
    assert list((tmp_path / "run/tensorboard/run-1").iterdir())
