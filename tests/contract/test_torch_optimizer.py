"""Stepping, parameters, gradients and learning rates: what an ordinary training loop relies on."""

import copy
from collections.abc import Callable

import pytest
import torch
from contract.optimizer_cases import (
    RULES,
    STEPS_TAKEN,
    Decay,
    Delayed,
    expected,
    follow,
    gradients,
    loss_of,
    net,
    numbers,
    parameter,
    same,
    states,
    step,
    train,
    values,
)
from contract.schedulers import SCHEDULERS
from torch import Tensor, nn
from torch.optim import lr_scheduler

from l2o.optimizers import handcrafted
from l2o.optimizers.architectures import ARCHITECTURES
from l2o.optimizers.base import LearnedOptimizer
from l2o.optimizers.handcrafted import Adam
from l2o.optimizers.torch_optim import STEPS, TorchOptimizer

FORMS: dict[str, Callable[[nn.Module], object]] = {
    "generator": lambda model: model.parameters(),
    "list": lambda model: list(model.parameters()),
    "named": lambda model: model.named_parameters(),
    "groups": lambda model: [{"params": [p]} for p in model.parameters()],
    "named groups": lambda model: [{"params": list(model.named_parameters())}],
}


def test_every_learned_optimizer_is_in_the_table() -> None:
    learned = {kind for name, kind in ARCHITECTURES.items() if name not in vars(handcrafted)}
    assert learned <= {type(make()) for make in RULES.values()}


def test_is_a_torch_optimizer(rule: LearnedOptimizer) -> None:
    optimizer = rule.as_torch([parameter(3)])
    assert isinstance(optimizer, torch.optim.Optimizer)
    assert type(optimizer) is TorchOptimizer
    assert optimizer.param_groups[0]["lr"] == 1.0


def test_a_step_adds_lr_times_the_rules_update(rule: LearnedOptimizer) -> None:
    p, grads = parameter(3, 5), gradients((3, 5))
    wanted = expected(rule, p, grads, [0.5] * STEPS_TAKEN)
    torch.testing.assert_close(follow(rule.as_torch([p], lr=0.5), p, grads), wanted, rtol=1e-6, atol=1e-6)


def test_weight_decay_is_decoupled_and_scaled_by_lr(rule: LearnedOptimizer) -> None:
    p, (grad,) = parameter(3, 5), gradients((3, 5), steps=1)
    delta = expected(rule, p, [grad], [1.0]) - p.detach()
    wanted = p.detach() * (1 - 0.5 * 0.1) + 0.5 * delta
    torch.testing.assert_close(follow(rule.as_torch([p], lr=0.5, weight_decay=0.1), p, [grad]), wanted)


def test_weight_decay_is_that_of_adamw() -> None:
    ours, theirs, grads = parameter(7), parameter(7), gradients((7,))
    adamw = torch.optim.AdamW([theirs], lr=0.02, weight_decay=0.1)
    adam = Adam(1e-2).as_torch([ours], lr=2.0, weight_decay=0.001)  # 2 * 0.001 = 0.02 * 0.1
    # 1 - 0.999^t loses four digits in single precision.
    torch.testing.assert_close(follow(adam, ours, grads), follow(adamw, theirs, grads), rtol=0, atol=1e-5)


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS.keys())
def test_every_form_of_parameters_trains_alike(rule: LearnedOptimizer, form: Callable[[nn.Module], object]) -> None:
    first, second = net(), net()
    wanted = train(first, rule.as_torch(first.parameters()))
    assert same(train(second, TorchOptimizer(form(second), rule)), wanted)  # pyright: ignore[reportArgumentType]


def test_groups_have_their_own_numbers(separate: LearnedOptimizer) -> None:
    params, (grad,) = [parameter(4), parameter(4), parameter(4)], gradients((4,), steps=1)
    start = params[0].detach().clone()
    for p in params:
        p.grad = grad.clone()
    groups = [{"params": params[0]}, {"params": [params[1]], "lr": 0.25}, {"params": [params[2]], "weight_decay": 0.1}]
    step(separate.as_torch(groups, lr=0.5))
    delta = expected(separate, start, [grad], [1.0]) - start
    torch.testing.assert_close(params[0].detach(), start + 0.5 * delta)
    torch.testing.assert_close(params[1].detach(), start + 0.25 * delta)
    torch.testing.assert_close(params[2].detach(), start * 0.95 + 0.5 * delta)


def test_a_group_added_later_starts_afresh(separate: LearnedOptimizer) -> None:
    early, late, alone, grads = parameter(4), parameter(4, seed=1), parameter(4, seed=1), gradients((4,))
    optimizer = separate.as_torch([early], lr=0.5)
    follow(optimizer, early, grads[:3])
    group = {"params": [late], "lr": 0.25}
    optimizer.add_param_group(group)
    assert group == {"params": [late], "lr": 0.25}
    early.grad = None
    assert same(follow(optimizer, late, grads), follow(separate.as_torch([alone], lr=0.25), alone, grads))


def test_one_list_of_groups_serves_two_optimizers(rule: LearnedOptimizer) -> None:
    groups = [{"params": [parameter(2)]}]
    first = Adam(0.5).as_torch(groups, lr=0.1)
    second = rule.as_torch(groups).param_groups[0]
    assert second["lr"] == 1.0
    taken_over = rule.as_torch(first.param_groups).param_groups[0]
    assert taken_over["lr"] == 0.1
    assert taken_over["optimizer"] == second["optimizer"] != first.param_groups[0]["optimizer"]


def test_step_without_closure_returns_none(rule: LearnedOptimizer) -> None:
    model = net()
    optimizer = rule.as_torch(model.parameters())
    loss_of(model).backward()
    assert step(optimizer) is None


@pytest.mark.parametrize("keyword", [False, True], ids=["by position", "by keyword"])
def test_closures_run_with_gradients_and_their_loss_is_returned(rule: LearnedOptimizer, keyword: bool) -> None:
    model, plain = net(), net()
    optimizer = rule.as_torch(model.parameters())
    losses = []

    def closure() -> Tensor:
        assert torch.is_grad_enabled()
        optimizer.zero_grad()
        losses.append(loss_of(model))
        losses[-1].backward()
        return losses[-1]

    with torch.no_grad():
        for _ in range(STEPS_TAKEN):
            returned = optimizer.step(closure=closure) if keyword else optimizer.step(closure)
            assert returned is losses[-1]
            assert not torch.is_grad_enabled()
    assert len(losses) == STEPS_TAKEN
    assert same(values(model), train(plain, rule.as_torch(plain.parameters())))


def test_parameters_without_gradients_are_skipped(rule: LearnedOptimizer) -> None:
    used, unused, frozen = parameter(2), parameter(2, seed=1), parameter(2, seed=2)
    used.grad, frozen.grad = torch.ones(2), torch.ones(2)
    frozen.requires_grad_(False)
    before = [unused.detach().clone(), frozen.detach().clone()]
    optimizer = rule.as_torch([unused, used, frozen])
    step(optimizer)
    assert same([unused.detach(), frozen.detach()], before)
    assert set(optimizer.state) == {used}
    before = states(optimizer)
    optimizer.zero_grad()
    step(optimizer)
    assert same(states(optimizer), before)


def test_a_step_without_any_gradient_does_nothing(rule: LearnedOptimizer) -> None:
    optimizer = rule.as_torch([parameter(2)])
    step(optimizer)
    assert not optimizer.state


def test_gradients_are_never_edited_nor_kept(rule: LearnedOptimizer) -> None:
    p, (grad,) = parameter(3, 5), gradients((3, 5), steps=1)
    optimizer = rule.as_torch([p], weight_decay=0.1)
    p.grad = grad.clone()
    tensor, version = p.grad, p.grad._version
    step(optimizer)
    assert p.grad is tensor
    assert p.grad._version == version
    before = states(optimizer)
    optimizer.zero_grad(set_to_none=False)  # overwrites the memory of the gradient
    assert torch.equal(tensor, torch.zeros(3, 5))
    assert same(states(optimizer), before)
    optimizer.zero_grad()
    assert p.grad is None


def test_zero_gradients_at_lr_zero_change_no_parameter_and_make_all_state(rule: LearnedOptimizer) -> None:
    model = net()
    optimizer, before = rule.as_torch(model.parameters(), lr=0.0, weight_decay=0.1), values(model)
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step(closure=None)
    assert same(values(model), before)
    assert set(optimizer.state) == set(model.parameters())


def test_scalars_and_empty_parameters_step(rule: LearnedOptimizer) -> None:
    scalar, empty, grads = nn.Parameter(torch.tensor(0.5)), nn.Parameter(torch.empty(0, 3)), gradients(())
    wanted = expected(rule, scalar, grads, [1.0] * STEPS_TAKEN)
    empty.grad = torch.empty(0, 3)
    optimizer = rule.as_torch([scalar, empty])
    torch.testing.assert_close(follow(optimizer, scalar, grads), wanted, rtol=1e-6, atol=1e-6)
    assert int(optimizer.state[empty][STEPS]) == STEPS_TAKEN


def test_memory_layout_does_not_matter(rule: LearnedOptimizer) -> None:
    plain, grads = parameter(2, 3, 4, 5), gradients((2, 3, 4, 5))
    wanted = follow(rule.as_torch([plain]), plain, grads)
    for change in (lambda t: t.to(memory_format=torch.channels_last), lambda t: t.mT.contiguous().mT):
        p = nn.Parameter(change(numbers(2, 3, 4, 5)))
        assert not p.is_contiguous()
        assert same(follow(rule.as_torch([p]), p, [change(grad) for grad in grads]), wanted)


def test_a_parameter_of_several_pieces_steps_as_a_whole(rule: LearnedOptimizer) -> None:
    size = 2 * 8192 + 5
    p, grads = parameter(size), gradients((size,), steps=3)
    wanted = expected(rule, p, grads, [1.0] * 3)
    torch.testing.assert_close(follow(rule.as_torch([p]), p, grads), wanted, rtol=1e-6, atol=1e-6)


def test_training_the_rule_further_changes_no_running_optimizer(rule: LearnedOptimizer) -> None:
    first, second, grads = parameter(4), parameter(4), gradients((4,))
    wanted = follow(copy.deepcopy(rule).as_torch([first]), first, grads)
    optimizer = rule.as_torch([second])
    with torch.no_grad():
        for theta in rule.parameters():
            theta.add_(1.0)
    assert same(follow(optimizer, second, grads), wanted)
    assert all(theta.requires_grad for theta in rule.parameters())


def test_gradient_clipping_reaches_the_rule(rule: LearnedOptimizer) -> None:
    p, (grad,) = parameter(6), gradients((6,), steps=1)
    p.grad = grad.clone()
    wanted = expected(rule, p, [grad * (0.1 / grad.norm())], [1.0])
    torch.nn.utils.clip_grad_norm_([p], 0.1)
    step(rule.as_torch([p]))
    torch.testing.assert_close(p.detach(), wanted, rtol=1e-4, atol=1e-5)  # clip_grad_norm_ divides by norm + 1e-6


def test_accumulated_gradients_equal_those_of_the_whole_batch(rule: LearnedOptimizer) -> None:
    whole, halves = net(), net()
    wanted = train(whole, rule.as_torch(whole.parameters()), steps=3)
    optimizer = rule.as_torch(halves.parameters())
    for _ in range(3):
        optimizer.zero_grad()
        losses = [loss_of(halves, rows) / 2 for rows in (slice(0, 4), slice(4, 8))]
        for loss in losses:
            loss.backward()
        step(optimizer, sum(losses))
    # Sums in another order: gradients differ by 1e-7 of their size, which log and sign pass on where they are small.
    torch.testing.assert_close(values(halves), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own, where it imports its code generator
@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_a_compiled_model_trains_alike(rule: LearnedOptimizer, backend: str) -> None:
    plain, model = net(), net()
    wanted = train(plain, rule.as_torch(plain.parameters()), steps=3)
    compiled = torch.compile(model, backend=backend)
    torch.testing.assert_close(train(compiled, rule.as_torch(compiled.parameters()), steps=3), wanted)  # pyright: ignore


def test_step_hooks_run(rule: LearnedOptimizer) -> None:
    p, seen = parameter(2), []
    optimizer = rule.as_torch([p])
    optimizer.register_step_pre_hook(lambda *_: seen.append("before"))
    optimizer.register_step_post_hook(lambda *_: seen.append("after"))
    follow(optimizer, p, gradients((2,), steps=1))
    assert seen == ["before", "after"]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-6)])
def test_adam_is_torchs_adam(dtype: torch.dtype, tolerance: float) -> None:
    ours, theirs = net(dtype=dtype), net(dtype=dtype)
    wanted = train(theirs, torch.optim.Adam(theirs.parameters()), steps=50)
    mine = train(ours, Adam(1e-3).as_torch(ours.parameters()), steps=50)
    torch.testing.assert_close(mine, wanted, rtol=0, atol=tolerance)


def test_a_rule_may_hand_its_state_on_under_another_name() -> None:
    p, grads = parameter(4), gradients((4,))
    wanted = p.detach() - 0.1 * torch.stack(grads[:-2]).sum(0)
    torch.testing.assert_close(follow(Delayed().as_torch([p]), p, grads), wanted)


def test_a_rule_that_reads_parameters_sees_them_before_weight_decay() -> None:
    p = parameter(4)
    wanted = p.detach() * (1 - 0.5 - 0.1)
    torch.testing.assert_close(follow(Decay().as_torch([p], weight_decay=0.5), p, gradients((4,), steps=1)), wanted)


def test_every_scheduler_of_torch_is_in_the_table() -> None:
    made = {type(schedule(torch.optim.SGD([parameter(1)], lr=1.0))).__name__ for schedule in SCHEDULERS.values()}
    assert made == set(lr_scheduler.__all__) - {"LRScheduler"}


@pytest.mark.parametrize("schedule", SCHEDULERS.values(), ids=SCHEDULERS.keys())
def test_every_scheduler_sets_the_rate_as_for_sgd(
    rule: LearnedOptimizer, schedule: Callable[[torch.optim.Optimizer], lr_scheduler.LRScheduler]
) -> None:
    def rates(optimizer: torch.optim.Optimizer, p: Tensor) -> list[float]:
        scheduler, seen = schedule(optimizer), []
        measured = [1.0] if isinstance(scheduler, lr_scheduler.ReduceLROnPlateau) else []
        for grad in grads:
            seen.append(optimizer.param_groups[0]["lr"])
            follow(optimizer, p, [grad])
            scheduler.step(*measured)  # pyright: ignore[reportArgumentType]
        return seen

    grads, p, other = gradients((4,)), parameter(4), parameter(4)
    start = p.detach().clone()
    seen = rates(rule.as_torch([p]), p)
    assert seen == rates(torch.optim.SGD([other], lr=1.0), other)
    assert len(set(seen)) > 1
    torch.testing.assert_close(p.detach(), expected(rule, start, grads, seen), rtol=1e-6, atol=1e-6)


def test_lr_may_be_a_tensor(rule: LearnedOptimizer) -> None:
    first, second, grads = parameter(4), parameter(4), gradients((4,))
    wanted = follow(rule.as_torch([first], lr=0.5), first, grads)
    assert same(follow(TorchOptimizer([second], rule, lr=torch.tensor(0.5)), second, grads), wanted)
