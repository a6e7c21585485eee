"""The Lightning callback reports what a plain loop would; with Lightning itself where it is installed."""

import importlib.util
import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch
from torch import nn

from l2o.errors import UnsupportedError
from l2o.schedules.controllers import Controller
from l2o.schedules.features import MeasureFeatures
from l2o.schedules.fixed import InTurn
from l2o.schedules.follow import follow
from l2o.schedules.lightning import lightning_callback

NAME = next((name for name in ("lightning", "pytorch_lightning") if importlib.util.find_spec(name)), None)


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


@pytest.mark.skipif(NAME is None, reason="Lightning is not installed")
@pytest.mark.filterwarnings("ignore")
def test_a_trainer_of_lightning_follows_the_schedule_and_resumes(tmp_path):
    pl = importlib.import_module("lightning.pytorch" if NAME == "lightning" else "pytorch_lightning")

    class Module(pl.LightningModule):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.automatic_optimization = False
            self.model = nn.Linear(3, 1)
            features = MeasureFeatures(["loss/one", "gradient/two:model", "metric/score", "progress"])
            groups = {"model": self.model.parameters()}
            controller = Controller(features, 2)
            with torch.no_grad():
                controller.layers[0].weight.copy_(torch.randn(4, 2))
            self.follower = follow(controller, choices=("one", "two"), groups=groups, steps=12)

        def loss(self, name, batch):
            values = self.model(batch)
            return values.square().mean() if name == "one" else (values - 1).abs().mean()

        def on_train_start(self):
            if not self.follower.decisions.numel():
                batch = torch.ones(4, 3)
                self.follower.measure({name: self.loss(name, batch) for name in ("one", "two")})
                self.follower.validated({"score": 1.0})

        def training_step(self, batch, batch_index):
            optimizer = self.optimizers()
            optimizer.zero_grad()
            self.manual_backward(self.loss(self.follower.choose(), batch))
            optimizer.step()

        def validation_step(self, batch, batch_index):
            self.log("val_score", self.loss("one", batch))

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    def fitted(epochs, **options):
        module = Module()
        data = torch.utils.data.DataLoader(torch.linspace(0, 1, 36).reshape(12, 3), batch_size=4)
        trainer = pl.Trainer(
            max_epochs=epochs, callbacks=[lightning_callback(module.follower, metrics={"score": "val_score"})],
            accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
            enable_model_summary=False,
        )  # fmt: skip
        trainer.fit(module, data, data, **options)
        return module, trainer

    whole, _ = fitted(4)
    _, trainer = fitted(2)
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    resumed, _ = fitted(4, ckpt_path=tmp_path / "half.ckpt")
    assert whole.follower.decisions.shape == (1, 12)
    assert 0 < int(whole.follower.decisions.sum()) < 12
    assert torch.equal(resumed.follower.decisions, whole.follower.decisions)
    assert torch.equal(resumed.model.weight, whole.model.weight)
