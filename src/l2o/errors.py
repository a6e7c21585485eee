"""The package's errors. Each is also the builtin kind that plain Python code would expect."""


class L2OError(Exception):
    """Anything that `l2o` raises on purpose.

    Example:
        >>> import l2o
        >>> try:
        ...     l2o.Adam(-1.0)
        ... except L2OError as error:
        ...     print(type(error).__name__, "-", error)
        ArgumentError - lr is -1.0; it must be positive and finite
    """


class ArgumentError(L2OError, ValueError):
    """An argument that has no meaning: its message names the value and the remedy."""


class HorizonError(ArgumentError):
    """A horizon and a window that do not fit each other."""


class DataError(L2OError, ValueError):
    """A data file whose content is not what its format, or its checksum, says."""


class DataNotFoundError(L2OError, FileNotFoundError):
    """A data file that is not on this machine and could not be fetched."""


class CheckpointError(L2OError, ValueError):
    """A checkpoint that is truncated, altered, foreign, or of another run."""


class InUseError(CheckpointError):
    """A folder that another run is writing to."""


class WeightsError(L2OError, ValueError):
    """A weights file or card that is truncated, altered, foreign, or of another optimizer."""


class DivergedError(L2OError, ArithmeticError):
    """A meta-training whose meta-gradients stayed non-finite; or a user's own run whose loss or gradient is."""


class InterruptedRunError(L2OError, InterruptedError):
    """A meta-training was stopped by a signal; the same command goes on from its checkpoint."""


class RankError(L2OError, RuntimeError):
    """Another process of a run failed, was killed, or cannot be reached."""


class WorkerError(L2OError, RuntimeError):
    """A worker of a sweep was lost, or has other versions than the process that it works for."""


class MissingLossError(L2OError, ValueError):
    """A rule that reads the loss was stepped without one."""


class UnsupportedError(L2OError, NotImplementedError):
    """A request that is understood and deliberately not served."""


def missing_extra(what: str, extra: str, instead: str) -> UnsupportedError:
    """The error for a package that an extra brings and that is not installed."""
    return UnsupportedError(f"{what} needs the extra: pip install 'l2o[{extra}]', or {instead}")


class BackendError(L2OError, RuntimeError):
    """A kernel that was asked for and cannot serve."""
