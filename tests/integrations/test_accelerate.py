"""Prepared by Accelerate, held against the plain loop."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from accelerate.state import AcceleratorState, GradientState, PartialState
from contract.optimizer_cases import same, shown, states
from integrations.cases import BATCH, DESCENDING, batches, data, framework, loss_of, made, model, values, whole_loss
from torch import Tensor, nn
from torch.optim.lr_scheduler import LinearLR
from torch.utils.data import DataLoader, TensorDataset

from l2o.optimizers.torch_optim import STEPS

EPOCHS, ACCUMULATED, CLIP = 4, 2, 0.5


@pytest.fixture(autouse=True)
def fresh_states() -> Iterator[None]:
    """Accelerate's settings are of the whole process: each test begins with none."""
    yield
    AcceleratorState._reset_state(True)
    GradientState._reset_state()
    PartialState._reset_state()


def prepared(optimizer: str, **options: Any) -> tuple[Accelerator, Any, Any, Any, Any]:
    accelerator = Accelerator(cpu=True, **options)
    net = model()
    stepped = made(optimizer, net.parameters(), weight_decay=0.01)
    scheduler = LinearLR(stepped, 1.0, 0.1, total_iters=20)
    loader = DataLoader(TensorDataset(*data()), batch_size=BATCH)
    return accelerator, *accelerator.prepare(net, stepped, loader, scheduler)


def train(accelerator: Accelerator, net: Any, optimizer: Any, loader: Any, scheduler: Any, epochs: int) -> list[Tensor]:
    """The loop of Accelerate's guide; the loss goes to the optimizer as a closure."""
    for _ in range(epochs):
        for batch in loader:
            with accelerator.accumulate(net):
                loss = loss_of(net, batch)
                accelerator.backward(loss)
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(net.parameters(), CLIP)
                optimizer.step(lambda loss=loss: loss)
                scheduler.step()
                optimizer.zero_grad()
    return values(accelerator.unwrap_model(net))


def plain(optimizer: str, accumulated: int, dtype: torch.dtype | None = None) -> list[Tensor]:
    net = model()
    stepped = made(optimizer, net.parameters(), weight_decay=0.01)
    scheduler = LinearLR(stepped, 1.0, 0.1, total_iters=20)
    for number, batch in enumerate(batches(EPOCHS * 6)):
        with torch.autocast("cpu", dtype, enabled=dtype is not None):
            output = net(batch[0])
        loss = (output.float() - batch[1]).square().mean()
        (loss / accumulated).backward()
        if (number + 1) % accumulated == 0:
            nn.utils.clip_grad_norm_(net.parameters(), CLIP)
            stepped.step(**shown(stepped, loss))
            scheduler.step()
            stepped.zero_grad()
    return values(net)


@framework("Accelerate, gradient accumulation")
def test_trains_as_the_plain_loop(optimizer: str) -> None:
    parts = prepared(optimizer, gradient_accumulation_steps=ACCUMULATED)
    found = train(*parts, EPOCHS)
    assert same(found, plain(optimizer, ACCUMULATED))
    assert {int(state[STEPS]) for state in states(parts[2].optimizer)} == {EPOCHS * 6 // ACCUMULATED}
    assert optimizer not in DESCENDING or whole_loss(parts[1]) < whole_loss(model())


@framework("Accelerate, gradient accumulation")
def test_a_saved_state_goes_on_bit_for_bit(optimizer: str, tmp_path: Path) -> None:
    options = {"gradient_accumulation_steps": ACCUMULATED}
    wanted = train(*prepared(optimizer, **options), EPOCHS)
    halves = prepared(optimizer, **options)
    train(*halves, EPOCHS // 2)
    halves[0].save_state(str(tmp_path))
    resumed = prepared(optimizer, **options)
    resumed[0].load_state(str(tmp_path))
    assert same(train(*resumed, EPOCHS // 2), wanted)


@framework("Accelerate, mixed precision")
def test_trains_in_bfloat16_as_the_plain_loop(optimizer: str) -> None:
    found = train(*prepared(optimizer, mixed_precision="bf16"), EPOCHS)
    assert same(found, plain(optimizer, 1, torch.bfloat16))


@framework("Accelerate, mixed precision")
def test_a_scaled_step_that_overflows_is_left_out(optimizer: str) -> None:
    """Accelerate makes a scaler on a GPU alone; its optimizer with a scaler can be had without one."""
    Accelerator(cpu=True)
    net, plain = model(), model()
    inner, reference = made(optimizer, net.parameters()), made(optimizer, plain.parameters())
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=1000)
    accelerated = AcceleratedOptimizer(inner, scaler=scaler)
    for at, batch in enumerate(batches(6)):
        loss = loss_of(net, batch)
        scaler.scale(loss).backward()
        if at in (0, 2):
            net[0].bias.grad[0] = torch.inf
        before = values(net), states(inner)
        accelerated.step(lambda loss=loss: loss)
        accelerated.zero_grad()
        assert accelerated.step_was_skipped == (at in (0, 2))
        assert same((values(net), states(inner)), before) == (at in (0, 2))
    for at, batch in enumerate(batches(6)):
        if at not in (0, 2):
            reference.zero_grad()
            loss = loss_of(plain, batch)
            loss.backward()
            reference.step(**shown(reference, loss))
    assert same(values(net), values(plain))
