"""A schedule inside Lightning's Trainer: its callback carries it through a checkpoint."""

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn

from l2o.schedules.controllers import Controller
from l2o.schedules.features import MeasureFeatures
from l2o.schedules.follow import follow
from l2o.schedules.lightning import lightning_callback


class Scheduled(pl.LightningModule):
    """Two losses of one layer, of which a controller takes one at every step."""

    def __init__(self) -> None:
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

    def loss(self, name: str, batch: Tensor) -> Tensor:
        values = self.model(batch)
        return values.square().mean() if name == "one" else (values - 1).abs().mean()

    def on_train_start(self) -> None:
        if not self.follower.decisions.numel():
            batch = torch.ones(4, 3)
            self.follower.measure({name: self.loss(name, batch) for name in ("one", "two")})
            self.follower.validated({"score": 1.0})

    def training_step(self, batch: Tensor, number: int) -> None:
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(self.loss(self.follower.choose(), batch))
        optimizer.step()

    def validation_step(self, batch: Tensor, number: int) -> None:
        self.log("val_score", self.loss("one", batch))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fitted(epochs: int, **options: Any) -> tuple[Scheduled, pl.Trainer]:
    module = Scheduled()
    data = torch.utils.data.DataLoader(torch.linspace(0, 1, 36).reshape(12, 3), batch_size=4)
    trainer = pl.Trainer(
        max_epochs=epochs, callbacks=[lightning_callback(module.follower, metrics={"score": "val_score"})],
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(module, data, data, **options)
    return module, trainer


def test_a_trainer_of_lightning_follows_the_schedule_and_resumes(tmp_path: Path) -> None:
    whole, _ = fitted(4)
    _, trainer = fitted(2)
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    resumed, _ = fitted(4, ckpt_path=tmp_path / "half.ckpt")
    assert whole.follower.decisions.shape == (1, 12)
    assert 0 < int(whole.follower.decisions.sum()) < 12
    assert torch.equal(resumed.follower.decisions, whole.follower.decisions)
    assert torch.equal(resumed.model.weight, whole.model.weight)
