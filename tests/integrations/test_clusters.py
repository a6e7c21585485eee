"""Sweeps on real clusters of Dask and Ray on this machine: the same results, and nothing lost that is done."""

import os
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import torch

import l2o
from l2o.errors import ArgumentError, WorkerError
from l2o.evaluation.compare import Comparison, compare
from l2o.evaluation.tuning import Tuning, tune
from l2o.sweeps import Cluster, run_all, workers

pytest.importorskip("distributed")
ray = pytest.importorskip("ray")

TASKS = l2o.Stream(3, ("sweep",), tasks=range(3))
OPTIMIZERS = {"RNNprop": l2o.RNNprop.lv(), "Adam": l2o.Adam(0.1)}
GRID = [2.0**-power for power in range(1, 6)]

# Ray leaves sockets and a log file of its own open when it shuts down.
pytestmark = pytest.mark.filterwarnings(
    "default:.*:ResourceWarning", "default:.*:pytest.PytestUnraisableExceptionWarning"
)


def tuned(**options) -> Tuning:
    return tune(l2o.Adam, l2o.Quadratics(4), TASKS, steps=20, grid=GRID, metric="final", **options)


def compared() -> Comparison:
    return compare(OPTIMIZERS, l2o.Quadratics(4), TASKS, steps=20)


def fails() -> None:
    raise ArgumentError("no such thing")


def dies() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.fixture(params=["dask", "ray"], scope="module")
def cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """Runs go to two workers of the cluster."""
    with workers(2, cluster=request.param):
        yield request.param


def test_runs_are_made_by_workers(cluster: Cluster) -> None:
    found = run_all({str(number): lambda: (os.getpid(), torch.get_num_threads()) for number in range(4)})
    assert os.getpid() not in {process for process, _ in found.values()}
    assert {threads for _, threads in found.values()} == {torch.get_num_threads()}


def test_results_do_not_depend_on_the_cluster(cluster: Cluster) -> None:
    spread, curves = tuned(), compared().curves
    with workers(1):
        alone, here = tuned(), compared().curves
    assert spread == alone
    for name, one in here.items():
        assert torch.equal(one.losses, curves[name].losses)


def test_results_come_in_one_by_one_in_the_order_of_the_calls(cluster: Cluster) -> None:
    told: dict[str, int] = {}
    found = run_all({name: partial(len, name) for name in ("ccc", "a", "bb")}, done=told.__setitem__)
    assert list(found.items()) == [("ccc", 3), ("a", 1), ("bb", 2)]
    assert told == found


def test_an_interrupted_tuning_goes_on(cluster: Cluster, tmp_path: Path) -> None:
    def stop(trial) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tuned(directory=tmp_path, progress=stop)
    times = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.l2o")}
    assert len(times) >= 1
    resumed = tuned(directory=tmp_path)
    assert {path: path.stat().st_mtime_ns for path in times} == times
    with workers(1):
        assert resumed == tuned()


def test_an_error_says_in_which_run(cluster: Cluster) -> None:
    with pytest.raises(ArgumentError, match="no such thing"):
        run_all({"good": os.getpid, "bad": fails})


def test_a_lost_worker_is_an_error_with_a_remedy(cluster: Cluster) -> None:
    with pytest.raises(WorkerError, match="fewer workers"):
        run_all({"good": os.getpid, "bad": dies})
