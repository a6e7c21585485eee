"""A schedule in Lightning: a callback that reports what happens to a `Follower`. Needs the extra `lightning`."""

from collections.abc import Mapping
from types import ModuleType
from typing import Any

from torch import Tensor

from l2o.errors import UnsupportedError
from l2o.schedules.follow import Follower


def lightning_callback(follower: Follower, *, metrics: Mapping[str, str] | None = None) -> Any:
    """A Lightning callback for a module with manual optimization, whose `training_step` calls `follower.choose()`.

    It calls `took` after each `manual_backward` of a choice with one loss, mixed precision included; `validated` after
    each validation, the sanity check aside; and keeps the follower's state in Lightning's checkpoints. Choices with
    several losses are left to the module, which calls `follower.measure` itself; so is what has to be known at the
    start, in `on_train_start` for instance.

    Args:
        follower: from `l2o.follow`.
        metrics: each metric that the schedule decides by, to the name under which the module logs it.

    Raises:
        UnsupportedError: Lightning is not installed.

    Example, in a LightningModule with `automatic_optimization = False`::

        def training_step(self, batch, batch_index):
            choice = self.follower.choose()
            optimizer = self.optimizers()[self.order.index(choice)]
            optimizer.zero_grad()
            self.manual_backward(self.loss_of(choice, batch))
            optimizer.step()

        Trainer(callbacks=[lightning_callback(module.follower, metrics={"inception_score": "val_score"})])
    """
    logged = dict(metrics or {})

    class ScheduleCallback(_pytorch_lightning().Callback):
        """Reports backwards and validations to the follower."""

        def __init__(self) -> None:
            super().__init__()
            self._loss: Tensor | None = None

        def on_before_backward(self, trainer: Any, pl_module: Any, loss: Tensor) -> None:
            self._loss = loss.detach()  # of mixed precision: scaled

        def on_after_backward(self, trainer: Any, pl_module: Any) -> None:
            choice, loss = follower.choice, self._loss
            names = () if choice is None else tuple(dict.fromkeys(name for name, _ in choice.pairs))
            if len(names) == 1 and loss is not None:
                scaler = getattr(trainer.precision_plugin, "scaler", None)
                follower.took({names[0]: loss if scaler is None else loss / scaler.get_scale()}, scaler=scaler)

        def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
            if logged and not trainer.sanity_checking:
                follower.validated({name: trainer.callback_metrics[key] for name, key in logged.items()})

        def state_dict(self) -> dict[str, Any]:
            return follower.state_dict()

        def load_state_dict(self, state_dict: dict[str, Any]) -> None:
            follower.load_state_dict(state_dict)

    return ScheduleCallback()


def _pytorch_lightning() -> ModuleType:
    """Lightning under either of the names that it is published by."""
    try:
        import lightning.pytorch as found  # pyright: ignore[reportMissingImports]
    except ImportError:
        try:
            import pytorch_lightning as found  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise UnsupportedError(
                "the callback needs Lightning: pip install 'l2o[lightning]', or call took() and validated() yourself"
            ) from error
    return found
