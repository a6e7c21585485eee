"""Which kernel computes, and what happens when the one asked for cannot."""

import pytest
import torch
from kernel_cases import needs_native

import l2o
from l2o import L2ODM, SGD, RNNprop, kernels
from l2o.errors import ArgumentError, BackendError
from l2o.kernels import native, select
from l2o.kernels.compiled import Compiled
from l2o.optimizers.base import Config, Coordinatewise


@pytest.fixture(autouse=True)
def no_variable(monkeypatch):
    monkeypatch.delenv(select.VARIABLE, raising=False)


class Doubled(L2ODM):
    """A rule that a user derived: its `update` is its own."""

    def update(self, grad, state):
        update, state = super().update(grad, state)
        return 2 * update, state


@needs_native
def test_the_native_kernel_is_taken_where_it_covers_the_case():
    assert kernels.backend_name(L2ODM()).startswith("native (")
    assert kernels.backend_name(RNNprop()).startswith("native (")
    assert kernels.backend_name(L2ODM.for_quadratics()).startswith("native (")
    assert kernels.available() == kernels.backend_name(L2ODM())


@pytest.mark.parametrize(
    "agent",
    [L2ODM(hidden=16), RNNprop(hidden=32), SGD(0.1), Doubled()],
    ids=["16 units", "32 units", "hand-designed", "derived"],
)
def test_every_other_rule_runs_in_the_reference(agent):
    assert kernels.backend_name(agent) == "reference"


def test_other_precisions_and_devices_run_in_the_reference():
    assert kernels.backend_name(L2ODM(), dtype=torch.float64) == "reference"
    assert kernels.backend_name(L2ODM(), device="cuda") == "reference"


def test_a_derived_update_is_the_one_that_runs():
    grad = torch.randn(1, 30)
    with torch.no_grad():
        once, _ = L2ODM()({"grad/x": grad}, L2ODM().init_coordinates(1, 30, grad))
        twice, _ = Doubled()({"grad/x": grad}, Doubled().init_coordinates(1, 30, grad))
    assert torch.allclose(twice["x"], 2 * once["x"], rtol=1e-5, atol=1e-9)


def test_the_variable_overrides_auto_and_the_keyword_overrides_the_variable(monkeypatch):
    rule = L2ODM()
    monkeypatch.setenv(select.VARIABLE, "reference")
    assert kernels.backend_name(rule) == "reference"
    rule.backend = "compiled"
    assert kernels.backend_name(rule) == "compiled"


def test_an_unknown_backend_is_named(monkeypatch):
    monkeypatch.setenv(select.VARIABLE, "cuda")
    with pytest.raises(ArgumentError, match=r"L2O_BACKEND is 'cuda'; choose one of auto, reference, native, compiled"):
        kernels.backend_name(L2ODM())
    with pytest.raises(ArgumentError, match="backend is 'fast'"):
        l2o.Plan(backend="fast")
    with pytest.raises(ArgumentError, match="backend is 'fast'"):
        L2ODM().as_torch([torch.nn.Parameter(torch.zeros(1))], backend="fast")


def test_a_rule_that_insists_on_native_and_cannot_have_it_says_why():
    for rule, reason in ((L2ODM(hidden=16), "16 hidden units"), (Doubled(), "declares no cell")):
        rule.backend = "native"
        with pytest.raises(BackendError, match=reason):
            kernels.backend_name(rule)
    rule = L2ODM()
    rule.backend = "native"
    with pytest.raises(BackendError, match="float64"):
        kernels.backend_name(rule, dtype=torch.float64)


def test_an_installation_without_a_kernel_runs_in_the_reference(monkeypatch):
    monkeypatch.setattr(native, "load", lambda: "this installation was built without a native kernel")
    assert kernels.backend_name(L2ODM()) == "reference"
    assert kernels.available() == "reference (this installation was built without a native kernel)"
    monkeypatch.setenv(select.VARIABLE, "native")
    with pytest.raises(BackendError, match="built without a native kernel"):
        kernels.backend_name(L2ODM())


@needs_native
def test_where_gradients_are_recorded_the_rules_own_code_runs():
    rule, grad = L2ODM(), torch.zeros(1, 3)
    assert kernels.kernel_for_step(rule, grad).name == "reference"
    with torch.no_grad():
        assert kernels.kernel_for_step(rule, grad).name.startswith("native")


@needs_native
def test_under_vmap_the_rules_own_code_runs():
    rule, grads = L2ODM(), torch.randn(4, 1, 5)

    def update(grad):
        return rule({"grad/x": grad}, rule.init_coordinates(1, 5, grad))[0]["x"]

    with torch.no_grad():
        assert torch.allclose(torch.func.vmap(update)(grads), torch.stack([update(grad) for grad in grads]), atol=1e-7)


def test_the_plan_sets_the_backend_and_the_run_remembers_it():
    rule = L2ODM()
    plan = l2o.Plan(
        trajectories=1, horizon=l2o.ConstantHorizon(2, 2), validation_tasks=1, validation_last=1, backend="reference"
    )
    trained = l2o.metatrain(rule, l2o.Quadratics(3), l2o.MetaLoss(), plan)
    assert rule.backend == "reference"
    assert trained.card.backend == "reference"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # torch's compiler uses what torch deprecates
def test_a_compiled_rule_gives_the_same_numbers():
    class Tanh(Coordinatewise):
        name = "tanh"

        def __init__(self):
            super().__init__()
            self.gain = torch.nn.Parameter(torch.tensor(0.3))

        def config(self) -> Config:
            return {}

        def init_coordinates(self, tasks, coordinates, like):
            return {"m": like.new_zeros(tasks, coordinates)}

        def update(self, grad, state):
            m = 0.9 * state["m"] + grad
            return -self.gain * torch.tanh(m), {"m": m}

    results = []
    for backend in ("reference", "compiled"):
        rule = Tanh()
        rule.backend = backend
        plan = l2o.Plan(
            trajectories=2, horizon=l2o.ConstantHorizon(6, 3), validation_tasks=2, validation_last=1, tasks=3
        )
        trained = l2o.metatrain(rule, l2o.Quadratics(4), l2o.MetaLoss(), plan)
        results.append(trained.validations[-1].value)
    assert results[0] == pytest.approx(results[1], rel=1e-5)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # torch's compiler uses what torch deprecates
@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")  # asked for by torch's compiler, not by us
def test_a_compiled_rule_that_couples_tensors_gives_the_same_numbers():
    results = []
    for backend in ("reference", "compiled"):
        rule = l2o.L2OScale()
        plan = l2o.Plan(
            trajectories=2, horizon=l2o.ConstantHorizon(6, 3), validation_tasks=2, validation_last=1, backend=backend
        )
        trained = l2o.metatrain(rule, l2o.Quadratics(4), l2o.MetaLoss(objective="log"), plan)
        results.append(trained)
    assert [trained.card.backend for trained in results] == ["reference", "compiled"]
    assert results[0].validations[-1].value == pytest.approx(results[1].validations[-1].value, rel=1e-4)


def test_a_rule_that_couples_tensors_is_compiled_only_where_asked_for(monkeypatch):
    compiled = []
    monkeypatch.setattr(torch, "compile", lambda method, **options: compiled.append(method) or method)
    rule = l2o.L2OScale()
    params = {"x": torch.ones(1, 3)}
    state = rule.init_state(params, l2o.Stream(0))
    plain, _ = rule({"grad/x": params["x"]}, state)
    assert compiled == []
    rule.backend = "compiled"
    same, _ = rule({"grad/x": params["x"]}, state)
    assert len(compiled) == 1
    assert torch.equal(plain["x"], same["x"])


def test_every_method_of_an_agent_has_a_compiled_form_of_its_own(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda method, **options: method)
    kernel, rule = Compiled(), l2o.L2ODM()
    assert kernel.form(rule, l2o.L2ODM.update) is l2o.L2ODM.update
    assert kernel.form(rule, l2o.L2ODM.init_coordinates) is l2o.L2ODM.init_coordinates
    assert kernel.form(rule, l2o.L2ODM.update) is l2o.L2ODM.update
