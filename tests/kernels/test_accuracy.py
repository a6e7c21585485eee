"""The native kernel's numbers against float64: no more than five times the error of PyTorch's float32."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from kernel_cases import (
    COVERED,
    GRADIENTS,
    error,
    every_covered,
    every_gradient,
    every_kernel,
    in_double,
    joined,
    kernel,
    loadable,
    moved,
    needs_native,
    observed,
    reference,
    started,
)

from l2o.kernels.targets import Linear, Squared

pytestmark = needs_native

TIMES = 5
"""The error allowed, in errors of eager float32."""

FLOOR = 1e-7
"""What is allowed where eager float32 happens to be exact."""

STEPS = 6


def targets(kind, shape, rng):
    if kind == "linear":
        return Linear(torch.randn(shape, generator=rng))
    return Squared(0.1 * torch.randn(shape, generator=rng), torch.rand(shape, generator=rng))


def doubled(target):
    return type(target)(*(leaf.double() for leaf in vars(target).values()))


def gradients_of(kernel_under_test, rule, grads, state, target):
    return joined(kernel_under_test.window_vjp(rule, observed(grads), state, target))


@every_kernel
@every_covered
@every_gradient
@pytest.mark.parametrize("scale", [1.0, 5.0], ids=["weights", "weights times 5"])
@pytest.mark.parametrize("kind", ["linear", "squared"])
def test_window_gradient_is_as_exact_as_eager(instructions, make, draw, scale, kind):
    worst_native, worst_eager = FLOOR / TIMES, 0.0
    for seed in range(3):
        rng = torch.Generator().manual_seed(seed)
        rule, shape = moved(make, seed, scale), (STEPS, 2, 101)
        grads, state, target = draw(shape, rng), started(rule, 2, 101, seed), targets(kind, shape, rng)
        exact_rule, exact_state = in_double(rule, state)
        truth = gradients_of(reference, exact_rule, grads.double(), exact_state, doubled(target))
        worst_native = max(worst_native, error(gradients_of(kernel(instructions), rule, grads, state, target), truth))
        worst_eager = max(worst_eager, error(gradients_of(reference, rule, grads, state, target), truth))
    assert worst_native <= max(TIMES * worst_eager, FLOOR)


@every_kernel
@every_covered
@every_gradient
def test_step_is_as_exact_as_eager(instructions, make, draw):
    worst: dict[str, list[float]] = {}
    for seed in range(3):
        rng = torch.Generator().manual_seed(seed)
        rule, grad = moved(make, seed), draw((2, 101), rng)
        state = started(rule, 2, 101, seed)
        exact_rule, exact_state = in_double(rule, state)
        with torch.no_grad():
            results = [
                kernel(instructions).step(rule, grad, state),
                reference.step(rule, grad, state),
                reference.step(exact_rule, grad.double(), exact_state),
            ]
        native, eager, truth = ({"update": update, **after} for update, after in results)
        assert native.keys() == truth.keys()
        for name, leaf in truth.items():
            assert native[name].shape == leaf.shape
            worst.setdefault(name, []).append(error(native[name], leaf) / max(TIMES * error(eager[name], leaf), FLOOR))
    for name, ratios in worst.items():
        assert max(ratios) <= 1, name


@given(
    instructions=st.sampled_from(loadable() or [""]),
    make=st.sampled_from(list(COVERED.values())),
    draw=st.sampled_from(list(GRADIENTS.values())),
    tasks=st.sampled_from([1, 2, 7]),
    coordinates=st.sampled_from([0, 1, 15, 16, 17, 1003]),
    threads=st.sampled_from([1, 2]),
    steps=st.integers(1, 5),
    seed=st.integers(0, 10**6),
)
def test_any_size_and_number_of_threads_agrees_with_eager(
    instructions, make, draw, tasks, coordinates, threads, steps, seed
):
    rng = torch.Generator().manual_seed(seed)
    rule, shape = moved(make, seed), (steps, tasks, coordinates)
    grads, state, target = draw(shape, rng), started(rule, tasks, coordinates, seed), targets("linear", shape, rng)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        gradient = gradients_of(kernel(instructions), rule, grads, state, target)
        update, after = kernel(instructions).step(rule, grads[0], state)
    finally:
        torch.set_num_threads(before)
    exact_rule, exact_state = in_double(rule, state)
    truth = gradients_of(reference, exact_rule, grads.double(), exact_state, doubled(target))
    assert error(gradient, truth) <= max(
        TIMES * error(gradients_of(reference, rule, grads, state, target), truth), 1e-6
    )
    with torch.no_grad():
        exact_update, exact_after = reference.step(exact_rule, grads[0].double(), exact_state)
    assert error(update, exact_update) < 1e-5
    assert error(joined(after), joined(exact_after)) < 1e-6
