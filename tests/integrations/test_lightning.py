"""Inside Lightning's Trainer, held against the plain loop."""

import math
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from contract.optimizer_cases import same, shown, states
from integrations.cases import BATCH, DESCENDING, batches, data, framework, loss_of, made, model, values, whole_loss
from lightning.pytorch.plugins.precision import MixedPrecision
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR
from torch.utils.data import DataLoader, TensorDataset

from l2o.optimizers.torch_optim import STEPS

EPOCHS, STEPS_TAKEN, CLIP = 2, 12, 0.5


class Automatic(pl.LightningModule):
    """A module that leaves the loop to Lightning: learning rates fall step by step, gradients are clipped."""

    def __init__(self, optimizer: str) -> None:
        super().__init__()
        self.optimizer, self.net = optimizer, model()

    def configure_optimizers(self) -> Any:
        optimizer = made(self.optimizer, self.net.parameters(), weight_decay=0.01)
        scheduler = CosineAnnealingLR(optimizer, T_max=2 * STEPS_TAKEN)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def training_step(self, batch: tuple[Tensor, Tensor], number: int) -> Tensor:
        return loss_of(self.net, batch)


class Manual(Automatic):
    """The same, with a loop of its own inside `training_step`."""

    def __init__(self, optimizer: str) -> None:
        super().__init__(optimizer)
        self.automatic_optimization = False

    def training_step(self, batch: tuple[Tensor, Tensor], number: int) -> None:
        optimizer = self.optimizers()
        optimizer.zero_grad()
        loss = loss_of(self.net, batch)
        self.manual_backward(loss)
        self.clip_gradients(optimizer, gradient_clip_val=CLIP)
        optimizer.step(**shown(optimizer.optimizer, loss))
        self.lr_schedulers().step()


class Overflowing(Automatic):
    """Its second and its fourth loss overflow in float16."""

    def training_step(self, batch: tuple[Tensor, Tensor], number: int) -> Tensor:
        loss = loss_of(self.net, batch)
        return loss * math.inf if number in (1, 3) else loss


def fitted(module: pl.LightningModule, epochs: int = EPOCHS, *, resume: Path | None = None, **options: Any) -> Any:
    """The trainer after so many epochs."""
    trainer = pl.Trainer(
        max_epochs=epochs, accelerator="cpu", devices=1, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, **options,
    )  # fmt: skip
    trainer.fit(module, DataLoader(TensorDataset(*data()), batch_size=BATCH), ckpt_path=resume)
    return trainer


def plain(name: str, *, accumulated: int = 1, dtype: torch.dtype | None = None) -> list[Tensor]:
    """What Lightning is asked for, written out."""
    net = model()
    optimizer = made(name, net.parameters(), weight_decay=0.01)
    scheduler = CosineAnnealingLR(optimizer, T_max=2 * STEPS_TAKEN)
    for number, batch in enumerate(batches(STEPS_TAKEN * accumulated)):
        with torch.autocast("cpu", dtype, enabled=dtype is not None):
            loss = loss_of(net, batch) / accumulated
        loss.backward()
        if (number + 1) % accumulated == 0:
            nn.utils.clip_grad_norm_(net.parameters(), CLIP)
            optimizer.step(**shown(optimizer, loss))
            optimizer.zero_grad()
            scheduler.step()
    return values(net)


@framework("Lightning, automatic optimization")
def test_trains_as_the_plain_loop(optimizer: str) -> None:
    module = Automatic(optimizer)
    trainer = fitted(module, gradient_clip_val=CLIP)
    assert trainer.global_step == STEPS_TAKEN
    assert same(values(module.net), plain(optimizer))
    assert optimizer not in DESCENDING or whole_loss(module.net) < whole_loss(model())


@framework("Lightning, automatic optimization")
def test_accumulates_gradients_as_the_plain_loop(optimizer: str) -> None:
    """A rule that reads the loss sees what Lightning's closure returns: that of the last minibatch, divided."""
    module = Automatic(optimizer)
    fitted(module, 2 * EPOCHS, gradient_clip_val=CLIP, accumulate_grad_batches=2)
    assert same(values(module.net), plain(optimizer, accumulated=2))


@framework("Lightning, automatic optimization")
def test_trains_in_bfloat16_as_the_plain_loop(optimizer: str) -> None:
    module = Automatic(optimizer)
    fitted(module, gradient_clip_val=CLIP, precision="bf16-mixed")
    assert same(values(module.net), plain(optimizer, dtype=torch.bfloat16))


@framework("Lightning, automatic optimization")
def test_a_checkpoint_goes_on_bit_for_bit(optimizer: str, tmp_path: Path) -> None:
    whole, half, resumed = (Automatic(optimizer) for _ in range(3))
    wanted = fitted(whole, gradient_clip_val=CLIP)
    fitted(half, EPOCHS // 2, gradient_clip_val=CLIP).save_checkpoint(tmp_path / "half.ckpt")
    trainer = fitted(resumed, resume=tmp_path / "half.ckpt", gradient_clip_val=CLIP)
    assert same(values(resumed.net), values(whole.net))
    assert same(states(trainer.optimizers[0]), states(wanted.optimizers[0]))


@framework("Lightning, manual optimization")
def test_a_loop_of_its_own_trains_as_the_plain_loop(optimizer: str) -> None:
    module = Manual(optimizer)
    fitted(module)
    assert same(values(module.net), plain(optimizer))


@framework("Lightning, manual optimization")
def test_a_closure_of_its_own_trains_as_the_plain_loop(optimizer: str) -> None:
    class WithClosure(Manual):
        def training_step(self, batch: tuple[Tensor, Tensor], number: int) -> None:
            optimizer = self.optimizers()

            def closure() -> Tensor:
                optimizer.zero_grad()
                loss = loss_of(self.net, batch)
                self.manual_backward(loss)
                self.clip_gradients(optimizer, gradient_clip_val=CLIP)
                return loss

            optimizer.step(closure=closure)
            self.lr_schedulers().step()

    module = WithClosure(optimizer)
    fitted(module)
    assert same(values(module.net), plain(optimizer))


@framework("Lightning, manual optimization")
def test_a_manual_checkpoint_goes_on_bit_for_bit(optimizer: str, tmp_path: Path) -> None:
    whole, half, resumed = (Manual(optimizer) for _ in range(3))
    fitted(whole)
    fitted(half, EPOCHS // 2).save_checkpoint(tmp_path / "half.ckpt")
    fitted(resumed, resume=tmp_path / "half.ckpt")
    assert same(values(resumed.net), values(whole.net))


def scaled(name: str) -> list[Tensor]:
    """What Lightning is asked for with a scaler, written out: its scheduler moves on where a step is left out."""
    module, scaler = Overflowing(name), torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=1000)
    configured = module.configure_optimizers()
    for number, batch in enumerate(batches(STEPS_TAKEN // 2)):
        with torch.autocast("cpu", torch.float16):
            loss = module.training_step(batch, number)
        scaler.scale(loss).backward()
        scaler.unscale_(configured["optimizer"])
        nn.utils.clip_grad_norm_(module.parameters(), CLIP)
        scaler.step(configured["optimizer"])
        scaler.update()
        configured["optimizer"].zero_grad()
        configured["lr_scheduler"]["scheduler"].step()
    return values(module.net)


@framework("Lightning, 16-mixed with a GradScaler")
def test_steps_that_overflow_leave_no_trace(optimizer: str) -> None:
    module = Overflowing(optimizer)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=1000)
    trainer = fitted(module, 1, gradient_clip_val=CLIP, plugins=[MixedPrecision("16-mixed", "cpu", scaler)])
    assert same(values(module.net), scaled(optimizer))
    assert scaler.get_scale() == 2.0**8
    assert {int(state[STEPS]) for state in states(trainer.optimizers[0])} == {4}


@pytest.mark.parametrize("name", ["Predicted Step Descent"])
def test_with_a_scaler_a_loop_of_its_own_can_show_the_loss(name: str) -> None:
    module = Manual(name)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=1000)
    module.clip_gradients = lambda *_, **__: None  # Lightning clips before it unscales in manual optimization
    trainer = fitted(module, 1, plugins=[MixedPrecision("16-mixed", "cpu", scaler)])
    assert {int(state[STEPS]) for state in states(trainer.optimizers[0])} == {6}
