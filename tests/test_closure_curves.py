"""Optimizers that step with a closure meet what rules meet, and every evaluation of theirs is counted."""

import math
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from l2o.closure_curves import run_closure_curves
from l2o.curves import TrueObjective, run_curves
from l2o.errors import ArgumentError
from l2o.optimizers.conjugate_gradient import ConjugateGradient
from l2o.optimizers.handcrafted import SGD, Adam
from l2o.processes.optimizee import Optimizee
from l2o.rng import Stream
from l2o.tasks.data import blobs
from l2o.tasks.mixture import Mixture
from l2o.tasks.projected import ProjectedClassification
from l2o.tasks.quadratic import Quadratics
from l2o.tasks.softmax_regression import SoftmaxRegression
from l2o.tasks.wrappers import NoisyGradients
from l2o.trees import Tree

RNG = Stream(4, ("closures",), trajectory=1, tasks=(5, 2, 7))
FAMILY = ProjectedClassification(blobs(), dimensions=16, hidden=16)
LBFGS = partial(torch.optim.LBFGS, max_iter=1)
CLOSURE_RULES = {
    "L-BFGS 5": partial(LBFGS, lr=0.01, history_size=5),
    "L-BFGS 20": partial(LBFGS, lr=0.01, history_size=20),
    "L-BFGS 5 Wolfe": partial(LBFGS, lr=1.0, history_size=5, line_search_fn="strong_wolfe"),
    "CG": partial(ConjugateGradient, lr=0.01),
    "CG Armijo": partial(ConjugateGradient, lr=1.0, line_search="armijo"),
}
every_closure_rule = pytest.mark.parametrize("rule", CLOSURE_RULES.values(), ids=CLOSURE_RULES.keys())


@pytest.mark.parametrize(
    "family",
    [
        FAMILY,
        SoftmaxRegression(3, samples=50, batch=6),
        NoisyGradients(Quadratics(3), 0.5),
        Mixture("two", [Quadratics(2), Quadratics(3)]),
    ],
    ids=lambda family: family.name,
)
@pytest.mark.parametrize(
    ("rule", "closure_rule"),
    [(SGD(0.02), partial(torch.optim.SGD, lr=0.02)), (Adam(0.05), partial(torch.optim.Adam, lr=0.05))],
    ids=["sgd", "adam"],
)
def test_torchs_own_rules_have_the_curves_of_ours(family, rule, closure_rule) -> None:
    """The same tasks, starts, minibatches and noise; the same counts."""
    settings = TrueObjective(every=4)
    ours = run_curves(rule, family, RNG, steps=10, true_objective=settings, dtype=torch.float64)
    found = run_closure_curves(closure_rule, family, RNG, steps=10, true_objective=settings, dtype=torch.float64)
    torch.testing.assert_close(found.losses, ours.losses, rtol=1e-8, atol=1e-12)
    assert found.true_losses is not None
    torch.testing.assert_close(found.true_losses, ours.true_losses, rtol=1e-8, atol=1e-12)
    assert found.true_every == 4
    assert (found.evaluations, found.loss_evaluations) == (ours.evaluations, 0) == (11, 0)


@every_closure_rule
def test_baselines_start_where_rules_start_and_go_down(rule) -> None:
    settings = TrueObjective(every=10)
    ours = run_curves(SGD(0.1), FAMILY, RNG, steps=1)
    found = run_closure_curves(rule, FAMILY, RNG, steps=30, true_objective=settings)
    torch.testing.assert_close(found.losses[:, 0], ours.losses[:, 0], rtol=1e-6, atol=0)
    assert found.losses.shape == (3, 31)
    assert found.losses.dtype == torch.float64
    assert torch.isfinite(found.losses).all()
    assert found.true_losses is not None
    assert found.true_losses.shape == (3, 4)
    assert (found.true_losses[:, -1] < found.true_losses[:, 0]).all()


@every_closure_rule
def test_every_evaluation_is_counted(rule) -> None:
    class Counted(ProjectedClassification):
        gradients = values = 0

        def losses(self, params: Tree, instance: Tree, batch: Tree) -> Tensor:
            Counted.values += 1  # of those within value_and_grad, too
            return super().losses(params, instance, batch)

        def value_and_grad(self, params: Tree, instance: Tree, batch: Tree) -> tuple[Tensor, Tree]:
            Counted.gradients += 1
            return super().value_and_grad(params, instance, batch)

    found = run_closure_curves(rule, Counted(blobs(), dimensions=16, hidden=16), RNG.over((1,)), steps=12)
    assert found.evaluations == Counted.gradients
    assert found.loss_evaluations == Counted.values - Counted.gradients


def test_only_line_searches_need_more_than_one_evaluation_a_step() -> None:
    found = {name: run_closure_curves(rule, FAMILY, RNG, steps=12) for name, rule in CLOSURE_RULES.items()}
    for name in ("L-BFGS 5", "L-BFGS 20", "CG"):
        assert (found[name].evaluations, found[name].loss_evaluations) == (13, 0)
    assert found["L-BFGS 5 Wolfe"].evaluations >= 25
    assert found["L-BFGS 5 Wolfe"].loss_evaluations == 0
    assert found["CG Armijo"].evaluations == 13
    assert 12 <= found["CG Armijo"].loss_evaluations <= 120


def test_lbfgs_takes_the_minibatch_of_each_step_in_turn() -> None:
    """Written out for one task: one call of torch's own optimizer for each minibatch."""
    found = run_closure_curves(CLOSURE_RULES["L-BFGS 5"], FAMILY, RNG.over((2,)), steps=8, dtype=torch.float64)
    process = Optimizee.start(FAMILY, RNG.over((2,)), dtype=torch.float64)
    params = {name: nn.Parameter(leaf[0].clone()) for name, leaf in process.params.items()}
    optimizer, losses = CLOSURE_RULES["L-BFGS 5"](list(params.values())), []
    for step in range(9):
        stream = RNG.over((2,)).child("batch").at(step=step)
        batch = FAMILY.gather(FAMILY.batch_indices({}, stream))

        def closure(batch: Tree = batch) -> Tensor:
            optimizer.zero_grad()
            outputs = FAMILY.logits(dict(params), batch["inputs"][0].double())
            loss = nn.functional.cross_entropy(outputs, batch["labels"][0])
            loss.backward()
            return loss.detach()

        losses.append(closure().item())
        optimizer.step(closure)
    torch.testing.assert_close(found.losses[0], torch.tensor(losses).double(), rtol=1e-6, atol=0)


def test_conjugate_gradient_finds_the_optimum_of_quadratics() -> None:
    """The middle task has an eigenvalue of 8e-6: only steps up to 1e6 take its direction to its end."""
    rule = partial(ConjugateGradient, lr=1e6, line_search="armijo")
    found = run_closure_curves(rule, Quadratics(10), RNG, steps=15, dtype=torch.float64)
    assert (found.losses[:, -1] < 1e-12 * found.losses[:, 0]).all()
    assert found.loss_evaluations <= 15 * 10


def test_a_run_ends_where_its_loss_is_not_finite_and_the_others_go_on() -> None:
    class Measured(Quadratics):
        def metrics(self, params: Tree, instance: Tree) -> Tree:
            return {"first": params["x"][:, 0]}

    def explosive(params: list[Tensor]) -> torch.optim.Optimizer:
        rates.append(1e200 if not rates else 0.01)
        return torch.optim.SGD(params, lr=rates[-1])

    rates: list[float] = []
    found = run_closure_curves(
        explosive, Measured(3), RNG, steps=5, true_objective=TrueObjective(every=2), dtype=torch.float64
    )
    assert found.losses.isnan().any(1).tolist() == [True, False, False]
    assert found.diverged.tolist() == [True, False, False]
    assert found.true_losses is not None
    assert torch.equal(found.true_losses.isnan(), found.losses[:, ::2].isnan())
    assert [math.isnan(value) for value in found.metrics["first"].tolist()] == [True, False, False]


def test_state_is_that_of_the_first_task() -> None:
    found = run_closure_curves(partial(torch.optim.SGD, lr=0.1, momentum=0.9), Quadratics(3), RNG, steps=2)
    assert found.state_bytes == 4 * 3
    found = run_closure_curves(CLOSURE_RULES["L-BFGS 5"], Quadratics(3), RNG, steps=20)
    # d and the last gradient, five pairs of vectors of 3, five numbers ro.
    assert found.state_bytes >= 4 * (2 * 3 + 2 * 5 * 3 + 5)


def test_an_optimizer_that_does_not_call_its_closure_is_refused() -> None:
    class Idle(torch.optim.SGD):
        def step(self, closure=None):
            return None

    with pytest.raises(ArgumentError, match="Idle did not call its closure"):
        run_closure_curves(partial(Idle, lr=0.1), Quadratics(3), RNG, steps=2)
    with pytest.raises(ArgumentError, match="steps is 0"):
        run_closure_curves(CLOSURE_RULES["CG"], Quadratics(3), RNG, steps=0)
