"""What the native kernel owes its surroundings: NaN, threads, forks, floating-point flags, memory, strides."""

import ctypes
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from kernel_cases import (
    error,
    every_covered,
    every_kernel,
    joined,
    kernel,
    moved,
    needs_native,
    observed,
    reference,
    started,
)

from l2o import L2ODM, MetaLoss, Quadratics, RNNprop, Stream
from l2o.errors import ArgumentError
from l2o.kernels import native
from l2o.kernels.layout import is_packed, pack, unpack
from l2o.kernels.targets import Linear
from l2o.processes.optimizee import Optimizee

pytestmark = needs_native


def finiteness(x):
    """Per number: finite 0, NaN 1, infinite 2 with its sign."""
    return torch.isnan(x) + 2 * torch.isinf(x) * torch.nan_to_num(x).sign()


@every_kernel
@every_covered
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_nan_and_infinity_come_out_as_in_the_reference(instructions, make, value):
    rule = moved(make, 1)
    state, grads = started(rule, 1, 40, 1), torch.randn(3, 1, 40)
    grads[1, 0, 7] = value
    with torch.no_grad():
        mine, truth = state, state
        for grad in grads:
            update, mine = kernel(instructions).step(rule, grad, mine)
            expected, truth = reference.step(rule, grad, truth)
            assert torch.equal(finiteness(update), finiteness(expected))
            for name, leaf in truth.items():
                assert torch.equal(finiteness(mine[name]), finiteness(leaf)), name
    target = Linear(torch.ones_like(grads))
    mine, truth = (k.window_vjp(rule, observed(grads), state, target) for k in (kernel(instructions), reference))
    for name, leaf in truth.items():
        assert torch.equal(torch.isfinite(mine[name]), torch.isfinite(leaf)), name


@every_kernel
@every_covered
def test_nan_in_a_slope_reaches_the_gradient(instructions, make):
    rule = moved(make, 1)
    slopes = torch.ones(2, 1, 20)
    slopes[1, 0, 3] = float("nan")
    gradient = kernel(instructions).window_vjp(
        rule, observed(torch.randn(2, 1, 20)), started(rule, 1, 20, 1), Linear(slopes)
    )
    assert all(bool(torch.isnan(leaf).any()) for leaf in gradient.values())


@every_kernel
@every_covered
@pytest.mark.parametrize("threads", [1, 2])
def test_a_window_repeats_bit_for_bit(instructions, make, threads, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    rule = moved(make, 1)
    grads, state = torch.randn(5, 3, 700), started(rule, 3, 700, 1)
    results = [joined(kernel(instructions).window_vjp(rule, observed(grads), state, Linear(grads))) for _ in range(4)]
    assert all(torch.equal(result, results[0]) for result in results)


@every_kernel
@every_covered
def test_a_window_replays_what_the_steps_did(instructions, make):
    rule = moved(make, 2)
    grads, state = torch.randn(4, 2, 33), started(rule, 2, 33, 2)
    after, updates = state, []
    for grad in grads:
        update, after = kernel(instructions).step(rule, grad, after)
        updates.append(update)
    # The gradient of sum |u|^2 / 2 by the output bias is known from the updates alone where the output is linear.
    slopes = torch.stack(updates)
    gradient = kernel(instructions).window_vjp(rule, observed(grads), state, Linear(slopes))["output.bias"]
    cell = rule.cell
    assert cell is not None
    u = slopes.double() / cell.scale
    inner = cell.scale * ((1 - u**2) if cell.bounded else torch.ones_like(u))
    assert float(gradient) == pytest.approx(float((slopes * inner).sum()), rel=1e-5)


@every_covered
@pytest.mark.parametrize("layout", [pack, unpack], ids=["packed", "contiguous"])
def test_advance_overwrites_the_state_with_what_step_returns(make, layout):
    rule = moved(make, 3)
    state, grad = layout(started(rule, 1, 50, 3)), torch.randn(1, 50)
    some = native.load()
    assert isinstance(some, native.Native)
    update, after = some.step(rule, grad, state)
    mine = dict(state)
    pointers = {name: leaf.data_ptr() for name, leaf in mine.items()}
    assert torch.equal(some.advance(rule, {"grad/p": grad}, mine), update)
    for name, leaf in after.items():
        assert torch.equal(mine[name], leaf), name
        assert mine[name].data_ptr() == pointers[name]


def test_packed_and_unpacked_states_hold_equal_numbers():
    leaf = torch.randn(3, 1024, 20)
    packed = pack({"h": leaf, "m": leaf[..., 0]})
    assert is_packed(packed["h"])
    assert not is_packed(leaf)
    assert packed["h"].stride(2) % 1024 != 0  # rows a power of two apart share places in the cache
    back = unpack(packed)
    assert torch.equal(back["h"], leaf)
    assert back["h"].is_contiguous()


@every_covered
def test_what_does_not_fit_is_refused_before_memory_is_read(make):
    rule, grad = moved(make, 1), torch.randn(2, 30)
    some = native.load()
    assert isinstance(some, native.Native)
    state = started(rule, 2, 30, 1)
    with pytest.raises(ArgumentError, match=r"h1 is torch.float32 \(2, 29, 20\).* needs float32 \(2, 30, 20\)"):
        some.step(rule, grad, {**state, "h1": state["h1"][:, :29]})
    with pytest.raises(ArgumentError, match=r"c2 is torch.float64"):
        some.step(rule, grad, {**state, "c2": state["c2"].double()})
    with pytest.raises(ArgumentError, match=r"weight is torch.float64"):
        some.step(rule.double(), grad, state)
    rule.float()
    with pytest.raises(ArgumentError, match=r"a target is torch.float32 \(1, 2, 29\)"):
        some.window_vjp(rule, observed(grad[None]), state, Linear(torch.ones(1, 2, 29)))


@every_covered
def test_the_layout_of_gradient_and_state_does_not_matter(make):
    rule, grad = moved(make, 1), torch.randn(30, 4).T  # [tasks, coordinates], tasks innermost
    some = native.load()
    assert isinstance(some, native.Native)
    state = started(rule, 4, 30, 1)
    turned = {k: v.transpose(0, 1).contiguous().transpose(0, 1) if v.ndim > 1 else v for k, v in state.items()}
    update, after = some.step(rule, grad, turned)
    plain_update, plain_after = some.step(rule, grad.contiguous(), state)
    assert torch.equal(update, plain_update)
    for name, leaf in plain_after.items():
        assert torch.equal(after[name], leaf), name


def window(rule):
    process = Optimizee.start(Quadratics(), Stream(3, ("test",), tasks=range(16)))
    method = MetaLoss()
    trajectory = method.begin(rule, process, Stream(3, ("test",)))
    return method.window(rule, trajectory, 20)


@pytest.mark.parametrize("make", [L2ODM, RNNprop])
def test_one_window_moves_meta_parameters_as_the_reference_does(make):
    gradients = []
    for backend in ("native", "reference"):
        rule = make(seed=1)
        rule.backend = backend
        estimate, after = window(rule)
        gradients.append(joined(estimate.gradient))
        if backend == "native":
            params = after.process.params["x"]
        else:
            assert torch.allclose(after.process.params["x"], params, rtol=1e-5, atol=1e-6)
    assert float((gradients[0] - gradients[1]).norm() / gradients[1].norm()) < 1e-5


@every_kernel
def test_loading_leaves_the_floating_point_flags_alone(instructions):
    code = (
        "import numpy as np, torch\n"
        "from l2o.kernels import native\n"
        "tiny = np.float32(2e-40)\n"
        "before = (float(tiny * np.float32(1)), float(np.float32(1) + np.float32(2**-24)), float(np.float32(-0.1)*3))\n"
        f"kernel = native.load({instructions!r})\n"
        "assert isinstance(kernel, native.Native), kernel\n"
        "from l2o import L2ODM\n"
        "rule = L2ODM()\n"
        "grad = torch.full((1, 40), 1e-3)\n"
        "kernel.step(rule, grad, rule.init_coordinates(1, 40, grad))\n"
        "after = (float(tiny * np.float32(1)), float(np.float32(1) + np.float32(2**-24)), float(np.float32(-0.1)*3))\n"
        "assert before == after and after[0] != 0, (before, after)\n"
        "assert float(torch.tensor(2e-40) * 1) != 0\n"
        "print('unchanged')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.strip() == "unchanged", done.stderr


def test_a_forked_process_computes_the_same():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        expected = joined(window(L2ODM(seed=1))[0].gradient)
        child = os.fork()
        if child == 0:  # pragma: no cover - coverage does not follow it
            signal.alarm(60)  # threads that the fork did not take along would be waited for without end
            os._exit(0 if error(joined(window(L2ODM(seed=1))[0].gradient), expected) < 1e-6 else 1)
        _, status = os.waitpid(child, 0)
    finally:
        torch.set_num_threads(before)
    assert os.waitstatus_to_exitcode(status) == 0


WORKERS = """
import torch
from l2o import L2ODM, MetaLoss, Quadratics, Stream
from l2o.processes.optimizee import Optimizee

class Windows(torch.utils.data.Dataset):
    def __len__(self):
        return 4

    def __getitem__(self, index):
        rule, rng = L2ODM(seed=1), Stream(3, ("test",), tasks=range(16))
        rule.backend = "native"
        trajectory = MetaLoss().begin(rule, Optimizee.start(Quadratics(), rng), rng)
        estimate, _ = MetaLoss().window(rule, trajectory, 20)
        return torch.cat([leaf.flatten() for leaf in estimate.gradient.values()])

torch.set_num_threads(2)
expected = Windows()[0]
loader = torch.utils.data.DataLoader(Windows(), batch_size=1, num_workers=2, multiprocessing_context="fork")
errors = [float((result[0] - expected).norm() / expected.norm()) for result in loader]
print(len(errors), max(errors) < 1e-6)
"""


def test_workers_of_a_data_loader_may_compute():
    # In a process of its own: coverage's hold on forked workers makes them end with an error.
    command = [sys.executable, "-c", WORKERS]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.strip() == "4 True", done.stderr


def test_a_thousand_windows_leave_no_memory_behind():
    rule = L2ODM(seed=1)
    some = native.load()
    assert isinstance(some, native.Native)
    grads, state = torch.randn(20, 1, 64), started(rule, 1, 64, 1)

    statm = Path("/proc/self/statm")
    if not statm.exists():
        pytest.skip("no /proc here")

    def resident():
        return int(statm.read_text().split()[1]) * 4096

    for _ in range(50):
        some.window_vjp(rule, observed(grads), state, Linear(grads))
    before = resident()
    for _ in range(1000):
        some.window_vjp(rule, observed(grads), state, Linear(grads))
    assert resident() - before < 8 << 20  # one leaked tape a window would be 400 MB


def refused(instructions):
    reason = native.load.__wrapped__(instructions)
    assert isinstance(reason, str)
    return reason


@every_kernel
def test_an_object_that_is_none_or_missing_is_refused_by_name(instructions, tmp_path, monkeypatch):
    monkeypatch.setenv("L2O_KERNEL_FOLDER", str(tmp_path))
    assert "without a native kernel" in refused(instructions)
    path = tmp_path / f"_lstm_{instructions}.so"
    path.write_text("not an object")
    assert f"{path} cannot be loaded" in refused(instructions)


@every_kernel
def test_an_object_of_other_sources_is_refused(instructions, monkeypatch):
    monkeypatch.setattr(native, "_Job", ctypes.c_int64)
    assert "was built from other sources; install l2o again" in refused(instructions)


def test_a_processor_without_these_instructions_has_no_kernel(monkeypatch):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "DEFAULT")
    assert "no native kernel for this processor (DEFAULT)" in refused(None)
