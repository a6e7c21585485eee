"""The Lightning callback reports what a plain loop would; tests/integrations has it inside Lightning itself."""

import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch
from torch import nn

from l2o.errors import UnsupportedError
from l2o.schedules.fixed import InTurn
from l2o.schedules.follow import follow
from l2o.schedules.lightning import lightning_callback


class Callback:
    """What the callback needs of Lightning's own."""


@pytest.fixture
def stub(monkeypatch):
    """A module in Lightning's place."""
    package, found = ModuleType("lightning"), ModuleType("lightning.pytorch")
    found.Callback = package.pytorch = found  # type: ignore
    found.Callback = Callback  # type: ignore
    monkeypatch.setitem(sys.modules, "lightning", package)
    monkeypatch.setitem(sys.modules, "lightning.pytorch", found)


def started():
    model = nn.Linear(3, 1)
    return model, follow(InTurn([0, 1]), choices=("one", "two"), groups={"model": model.parameters()}, steps=6)


@pytest.mark.parametrize("scale", [None, 512.0])
def test_the_hooks_report_loss_gradient_and_metric(stub, scale):
    scaler = None if scale is None else torch.amp.GradScaler("cpu", init_scale=scale)
    model, follower = started()
    callback = lightning_callback(follower, metrics={"score": "val_score"})
    plugin = SimpleNamespace() if scaler is None else SimpleNamespace(scaler=scaler)
    trainer = SimpleNamespace(precision_plugin=plugin, callback_metrics={"val_score": 0.7}, sanity_checking=True)
    callback.on_validation_end(trainer, model)
    assert "metric/score" not in follower._loop.observe()
    follower.choose()
    loss = 3 * model(torch.ones(1, 3)).sum()
    given = loss if scaler is None else scaler.scale(loss)
    callback.on_before_backward(trainer, model, given)
    given.backward()
    callback.on_after_backward(trainer, model)
    trainer.sanity_checking = False
    callback.on_validation_end(trainer, model)
    seen = {name: float(leaf) for name, leaf in follower._loop.observe().items()}
    assert seen["loss/one"] == pytest.approx(loss.item(), rel=1e-6)
    assert seen["gradient/one:model"] == pytest.approx(3.0)  # every derivative is 3
    assert (seen["metric/score"], seen["validated"]) == (pytest.approx(0.7), 1.0)


def test_a_checkpoint_carries_the_state(stub):
    _, follower = started()
    follower.choose()
    _, other = started()
    lightning_callback(other).load_state_dict(lightning_callback(follower).state_dict())
    assert (other.choose(), other.decisions.tolist()) == ("two", [[0, 1]])


def test_without_lightning_the_error_says_what_to_install(monkeypatch):
    for name in ("lightning", "lightning.pytorch", "pytorch_lightning"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UnsupportedError, match="pip install 'l2o\\[lightning\\]'"):
        lightning_callback(started()[1])
