"""Sweeps on clusters of Dask and Ray that somebody else has started."""

import pytest

import l2o
from l2o.errors import ArgumentError
from l2o.evaluation.tuning import Tuning, tune
from l2o.sweeps import workers

distributed = pytest.importorskip("distributed")
cluster_utils = pytest.importorskip("ray.cluster_utils")

# Ray leaves sockets and a log file of its own open when it shuts down.
UNCLOSED = ("default:.*:ResourceWarning", "default:.*:pytest.PytestUnraisableExceptionWarning")
pytestmark = pytest.mark.filterwarnings(*UNCLOSED)


def tuned() -> Tuning:
    tasks = l2o.Stream(3, ("sweep",), tasks=range(3))
    return tune(l2o.Adam, l2o.Quadratics(4), tasks, steps=20, grid=[2.0**-p for p in range(1, 6)], metric="final")


def test_a_running_dask_cluster_is_used() -> None:
    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as running,
        workers(cluster="dask", address=running.scheduler_address),
    ):
        spread = tuned()
    assert spread == tuned()


def test_a_running_ray_cluster_is_used() -> None:
    running = cluster_utils.Cluster(initialize_head=True, head_node_args={"num_cpus": 2})
    try:
        with workers(2, cluster="ray", address=running.address):
            spread = tuned()
            with pytest.raises(ArgumentError, match=r"ray\.shutdown"), workers(2, cluster="ray"):
                pass
    finally:
        running.shutdown()
    assert spread == tuned()
