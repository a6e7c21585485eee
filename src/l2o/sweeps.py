"""Independent runs spread over processes or a cluster, through joblib: who computes never shows in a result.

A run is a call without arguments that draws from named streams alone. A worker computes with as many torch threads as
the caller, on the same torch and the same l2o, or not at all; so a result is the same to the last bit wherever it comes
from.
"""

import io
import os
import warnings
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, redirect_stdout
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, TypeVar

import joblib
import torch
from cloudpickle import Pickler
from joblib.parallel import get_active_backend

from l2o.errors import ArgumentError, WorkerError, missing_extra
from l2o.progress import runs_bar
from l2o.provenance import package_version

T = TypeVar("T")

Cluster = Literal["processes", "dask", "ray"]

_LOST = {"BrokenProcessPool", "BrokenExecutor", "KilledWorker", "RayError"}
"""Errors of joblib, Dask and Ray that say that a worker is gone."""


@contextmanager
def workers(count: int | None = None, *, cluster: Cluster = "processes", address: str | None = None) -> Iterator[None]:
    """Spreads the independent runs of tunings, comparisons and experiments in the block over workers.

    It sets joblib's configuration for the block. `joblib.parallel_config` does it as well, for any other back end that
    computes in processes.

    Args:
        count: how many; None takes one for each core, or all of a running cluster. With 1, and no cluster, the runs
            happen in this process.
        cluster: "processes" of this machine, or workers of "dask" or "ray", each of which needs its extra.
        address: of a running cluster, for instance "tcp://10.0.0.1:8786"; None starts one on this machine, for the
            block.

    Raises:
        ArgumentError: a count below 1, or an address without a cluster.
        UnsupportedError: the extra is not installed.

    Example:
        >>> from l2o import Adam, Quadratics, Stream
        >>> from l2o.evaluation.tuning import tune
        >>> tasks = Stream(0, tasks=range(2))
        >>> with workers(1):
        ...     tuning = tune(Adam, Quadratics(2), tasks, steps=30, grid=[0.01, 0.1], metric="final")
        >>> tuning.runs >= 4
        True
    """
    if count is not None and count < 1:
        raise ArgumentError(f"count is {count}; at least one worker has to do the runs")
    if address is not None and cluster == "processes":
        raise ArgumentError(f"address is {address}, and processes have none; name the cluster, dask or ray")
    if cluster not in _CLUSTERS:
        raise ArgumentError(f"cluster is {cluster!r}; choose one of {', '.join(_CLUSTERS)}")
    with _CLUSTERS[cluster](count, address):
        yield


def run_all(
    calls: Mapping[str, Callable[[], T]], *, title: str = "runs", done: Callable[[str, T], None] | None = None
) -> dict[str, T]:
    """Makes all calls, spread over the workers that `workers` or joblib's configuration names.

    Without any, they are made one after the other in this process; so is a single one.

    Args:
        calls: name to call. Each must not depend on another one, nor on global random numbers; what it prints is not
            shown when a worker makes it.
        title: what stands before the progress bar over them.
        done: called in this process with the name and the result of each, as they come in, to keep what is done when
            the rest is interrupted.

    Returns:
        The result of each, in the order of `calls`.

    Raises:
        ArgumentError: joblib's configuration names a back end of threads.
        WorkerError: a worker was lost, or has another torch or l2o than this process.

    Example:
        >>> run_all({"two": lambda: 1 + 1, "three": lambda: 1 + 2})
        {'two': 2, 'three': 3}
    """
    found: dict[str, T] = {}
    with closing(_results(calls, title)) as results:
        for name, result in results:
            found[name] = result
            if done is not None:
                done(name, result)
    return {name: found[name] for name in calls}


def _results(calls: Mapping[str, Callable[[], T]], title: str) -> Generator[tuple[str, T]]:
    backend: Any
    backend, asked = get_active_backend()
    if len(calls) <= 1 or (backend.default_n_jobs if asked is None else asked) == 1:
        yield from ((name, call()) for name, call in calls.items())
        return
    if getattr(backend, "supports_sharedmem", False):
        raise ArgumentError(
            f"joblib is told to use {type(backend).__name__}, whose workers share one process and torch's settings; "
            "choose one with processes"
        )
    for name, call in calls.items():
        _check_portable(name, call)
    parallel: Any = joblib.Parallel
    waiting = [joblib.delayed(_Run(name, call))() for name, call in calls.items()]
    # Where results come in together, as on Ray, a wave of runs at a time is asked for, and none lost that is done.
    step = len(waiting) if backend.supports_return_generator else max(1, joblib.effective_n_jobs())
    kind = "generator_unordered" if backend.supports_return_generator else "list"
    with runs_bar(len(waiting), title) as one_more:
        try:
            for first in range(0, len(waiting), step):
                with _ended(parallel(return_as=kind, batch_size=1)(waiting[first : first + step])) as results:
                    for name, result in results:
                        one_more()
                        yield name, result
        except Exception as error:
            if any(kind.__name__ in _LOST for kind in type(error).__mro__):
                raise WorkerError(
                    f"a worker was lost ({type(error).__name__}), as when memory runs out; what is done is kept: give "
                    "the same command again, with fewer workers"
                ) from error
            raise


class _Nowhere(io.RawIOBase):
    """Takes all and keeps nothing."""

    def write(self, data: Any, /) -> int:
        return memoryview(data).nbytes


def _check_portable(name: str, call: Callable[[], Any]) -> None:
    """An error if a call cannot be sent to another process: on Dask it would never come back."""
    try:
        Pickler(_Nowhere()).dump(call)
    except Exception as error:
        raise ArgumentError(f"the run {name!r} cannot be sent to a worker ({error}); do it here, with one") from error


def _versions() -> tuple[str, str]:
    return torch.__version__, package_version()


def _settings() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name.startswith("L2O_")}


@contextmanager
def _ended(results: Any) -> Iterator[Any]:
    """Ends what joblib has not begun when a sweep is interrupted, which it would warn of; a list has ended."""
    try:
        yield results
    finally:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".* tasks .* cancelled", UserWarning)
            getattr(results, "close", lambda: None)()


# eq=False: Dask asks for a hash, and a dictionary has none.
@dataclass(frozen=True, eq=False)
class _Run(Generic[T]):
    """A call on its way to a worker, and what it needs to be the same there."""

    name: str
    call: Callable[[], T]
    threads: int = field(default_factory=torch.get_num_threads)
    versions: tuple[str, str] = field(default_factory=_versions)
    settings: Mapping[str, str] = field(default_factory=_settings)

    def __call__(self) -> tuple[str, T]:
        if _versions() != self.versions:
            raise WorkerError(
                f"a worker has torch {_versions()[0]} and l2o {_versions()[1]}, this process {self.versions[0]} and "
                f"{self.versions[1]}; results would differ, so install the same"
            )
        os.environ.update(self.settings)
        torch.set_num_threads(self.threads)
        try:
            with joblib.parallel_config(backend="sequential", n_jobs=1), redirect_stdout(io.StringIO()):
                return self.name, self.call()
        except Exception as error:
            error.add_note(f"in the run {self.name!r}")
            raise


def _processes(count: int | None, address: str | None) -> AbstractContextManager[Any]:
    return joblib.parallel_config(backend="loky", n_jobs=-1 if count is None else count)


def _register_dask() -> None:
    """joblib's back end for Dask, which would wait for ever for a run whose workers have died; here it hears of it."""
    from joblib._dask import DaskDistributedBackend

    class Dask(DaskDistributedBackend):
        def submit(self, func: Any, callback: Any = None) -> Any:
            def tell(future: Any) -> None:
                if not future.cancelled() and future.exception() is not None:
                    callback(future.exception())

            submitted: Any = super().submit(func, callback)
            submitted.add_done_callback(tell)
            return submitted

    joblib.register_parallel_backend("l2o-dask", Dask)


@contextmanager
def _dask(count: int | None, address: str | None) -> Iterator[None]:
    try:
        from distributed import Client, LocalCluster  # pyright: ignore
    except ImportError as error:
        raise missing_extra("--cluster dask", "dask", "choose processes") from error
    _register_dask()
    with ExitStack() as stack:
        if address is None:
            here = LocalCluster(n_workers=count, threads_per_worker=1, dashboard_address=None)
            address = stack.enter_context(here).scheduler_address
        stack.enter_context(Client(address))
        stack.enter_context(joblib.parallel_config(backend="l2o-dask", n_jobs=-1))
        yield


@contextmanager
def _ray(count: int | None, address: str | None) -> Iterator[None]:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would report to its makers
    try:
        import ray  # pyright: ignore
        from ray.util.joblib import register_ray  # pyright: ignore
    except ImportError as error:
        raise missing_extra("--cluster ray", "ray", "choose processes") from error
    if ray.is_initialized():
        raise ArgumentError("this process is connected to a Ray cluster already; end that with ray.shutdown() first")
    if address is None:
        ray.init(num_cpus=count, include_dashboard=False, log_to_driver=False)
    else:
        ray.init(address=address, log_to_driver=False)
    try:
        register_ray()
        jobs = -1 if count is None else count
        with joblib.parallel_config(backend="ray", n_jobs=jobs):
            yield
    finally:
        ray.shutdown()


_CLUSTERS: dict[str, Callable[[int | None, str | None], AbstractContextManager[Any]]] = {
    "processes": _processes,
    "dask": _dask,
    "ray": _ray,
}
