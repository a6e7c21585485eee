"""Runs in a plain loop, with what PyTorch itself puts around an optimizer."""

import copy
import io
import math

import pytest
import torch
from contract.optimizer_cases import same, shown, states
from contract.schedulers import SCHEDULERS
from integrations.cases import DESCENDING, batches, framework, loss_of, made, model, values, whole_loss
from torch import Tensor, nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

from l2o.optimizers.torch_optim import STEPS

STEPS_TAKEN = 12


def train(net: nn.Module, optimizer: torch.optim.Optimizer, steps: int = STEPS_TAKEN, first: int = 0) -> list[Tensor]:
    """The plain loop that all else is held against."""
    for batch in batches(steps, first):
        optimizer.zero_grad()
        loss = loss_of(net, batch)
        loss.backward()
        optimizer.step(**shown(optimizer, loss))
    return values(net)


def through_a_file(tree: object) -> object:
    file = io.BytesIO()
    torch.save(tree, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@framework("torch.compile of the model")
def test_a_compiled_model_trains_as_it_does_uncompiled(optimizer: str) -> None:
    plain, net = model(), model()
    wanted = train(plain, made(optimizer, plain.parameters()))
    compiled = torch.compile(net)
    torch.testing.assert_close(train(compiled, made(optimizer, compiled.parameters())), wanted)
    assert optimizer not in DESCENDING or whole_loss(net) < whole_loss(model())


@framework("GradScaler")
def test_steps_that_the_scaler_leaves_out_leave_no_trace(optimizer: str) -> None:
    """Float16 under autocast, unscaled and clipped; at two of the steps the loss overflows."""
    net, plain, overflows = model(), model(), (0, 5)
    mine, reference = made(optimizer, net.parameters()), made(optimizer, plain.parameters())
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=1000)
    for at, batch in enumerate(batches(STEPS_TAKEN)):
        mine.zero_grad()
        with torch.autocast("cpu", torch.float16):
            loss = loss_of(net, batch)
        scaler.scale(loss * (math.inf if at in overflows else 1.0)).backward()
        scaler.unscale_(mine)
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        before = values(net), states(mine)
        scaler.step(mine, **shown(mine, loss))
        scaler.update()
        assert same((values(net), states(mine)), before) == (at in overflows)
    assert scaler.get_scale() == 2.0**8
    for at, batch in enumerate(batches(STEPS_TAKEN)):
        if at in overflows:
            continue
        reference.zero_grad()
        with torch.autocast("cpu", torch.float16):
            loss = loss_of(plain, batch)
        (loss * 2.0**8).backward()  # a power of two that float16 holds: scaling back rounds nothing
        for p in plain.parameters():
            p.grad /= 2.0**8
        nn.utils.clip_grad_norm_(plain.parameters(), 1.0)
        reference.step(**shown(reference, loss))
    torch.testing.assert_close(values(net), values(plain))
    assert {int(state[STEPS]) for state in states(mine)} == {STEPS_TAKEN - len(overflows)}


@framework("every lr_scheduler")
@pytest.mark.parametrize("schedule", SCHEDULERS)
def test_a_scheduled_run_stopped_in_the_middle_goes_on_bit_for_bit(optimizer: str, schedule: str) -> None:
    def run(net: nn.Module, stepped: torch.optim.Optimizer, scheduler: object, first: int, last: int) -> list[float]:
        rates = []
        for batch in batches(last - first, first):
            rates.append(stepped.param_groups[0]["lr"])
            stepped.zero_grad()
            loss = loss_of(net, batch)
            loss.backward()
            stepped.step(**shown(stepped, loss))
            scheduler.step(*([1.0] if isinstance(scheduler, ReduceLROnPlateau) else []))
        return rates

    def started(net: nn.Module) -> tuple[torch.optim.Optimizer, object]:
        begun = made(optimizer, net.parameters())
        return begun, SCHEDULERS[schedule](begun)

    whole, halves = model(), model()
    rates = run(whole, *started(whole), 0, 6)
    parts = started(halves)
    first = run(halves, *parts, 0, 3)
    saved = through_a_file({"model": halves.state_dict(), "optimizer": parts[0].state_dict()})
    scheduled = copy.deepcopy(parts[1].state_dict())
    resumed = model()
    resumed.load_state_dict(saved["model"])
    again = started(resumed)
    again[0].load_state_dict(saved["optimizer"])
    again[1].load_state_dict(scheduled)
    assert first + run(resumed, *again, 3, 6) == rates
    assert len(set(rates)) > 1
    assert same(values(resumed), values(whole))


@framework("parameter groups")
def test_each_group_moves_by_its_own_numbers(optimizer: str) -> None:
    """One step of equal optimizers, of which one has a group with half the rate, and decay in another."""
    nets = [model(), model()]
    own = [
        {"params": nets[1][0].parameters(), "lr": 0.25},
        {"params": nets[1][2].parameters(), "weight_decay": 0.1},
    ]
    start = values(nets[0])
    plain = train(nets[0], made(optimizer, nets[0].parameters(), lr=0.5), steps=1)
    grouped = train(nets[1], made(optimizer, own, lr=0.5), steps=1)
    moved = [after - before for after, before in zip(plain, start, strict=True)]
    wanted = [start[0] + moved[0] / 2, start[1] + moved[1] / 2]
    wanted += [start[2] * 0.95 + moved[2], start[3] * 0.95 + moved[3]]
    torch.testing.assert_close(grouped, wanted)
    assert all(bool(delta.any()) for delta in moved)


@framework("parameter groups")
def test_a_run_with_groups_stopped_in_the_middle_goes_on_bit_for_bit(optimizer: str) -> None:
    def begun(net: nn.Module) -> torch.optim.Optimizer:
        first = {"params": net[0].parameters(), "lr": 0.25, "weight_decay": 0.1}
        grouped = made(optimizer, [first])
        grouped.add_param_group({"params": net[2].parameters(), "lr": 0.5})
        return grouped

    whole, halves, resumed = model(), model(), model()
    wanted = train(whole, begun(whole))
    half = begun(halves)
    train(halves, half, STEPS_TAKEN // 2)
    saved = through_a_file({"model": halves.state_dict(), "optimizer": half.state_dict()})
    resumed.load_state_dict(saved["model"])
    again = begun(resumed)
    again.load_state_dict(saved["optimizer"])
    assert same(train(resumed, again, STEPS_TAKEN // 2, STEPS_TAKEN // 2), wanted)


@framework("freezing in the middle of a run")
def test_a_layer_that_is_frozen_for_a_while_rests_and_goes_on(optimizer: str) -> None:
    net, plain = model(), model()
    mine, reference = made(optimizer, net.parameters()), made(optimizer, plain.parameters())
    train(net, mine, 4)
    rested, moved = values(net[2]), values(net[0])
    net[2].requires_grad_(False)
    train(net, mine, 4, 4)
    assert same(values(net[2]), rested)
    assert not any(map(torch.equal, values(net[0]), moved))
    net[2].requires_grad_(True)
    train(net, mine, 4, 8)
    assert [int(state[STEPS]) for state in states(mine)] == [12, 12, 8, 8]
    train(plain, reference, 4)  # the same in other words: gradients that are taken away
    for batch in batches(4, 4):
        reference.zero_grad()
        loss = loss_of(plain, batch)
        loss.backward()
        for p in plain[2].parameters():
            p.grad = None
        reference.step(**shown(reference, loss))
    train(plain, reference, 4, 8)
    assert same(values(net), values(plain))
