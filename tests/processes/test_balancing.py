"""Rules that balance losses: each on a case whose answer is known."""

import pytest
import torch
from torch import Tensor

from l2o.errors import ArgumentError
from l2o.processes.balancing import (
    Balanced,
    Balancing,
    DynamicWeightAverage,
    EqualWeights,
    GradNorm,
    PCGrad,
    RandomLossWeighting,
    UncertaintyWeighting,
    project_conflicts,
)
from l2o.rng import Stream

RNG = Stream(3, ("test",), tasks=range(4))
EVERY = [EqualWeights(), RandomLossWeighting(), UncertaintyWeighting(), DynamicWeightAverage(), GradNorm(), PCGrad()]


def drawn(*shape: int, name: str = "gradients") -> Tensor:
    return RNG.child(name).normal(shape)


def repeated(rule: Balancing, values: Tensor, gradients: Tensor, steps: int) -> Balanced:
    """The rule's last answer where losses and gradients stay as they are."""
    state = rule.begin(values)
    for step in range(steps):
        found = rule.balance(values, gradients, state, RNG.at(step=step))
        state = found.state
    return found


@pytest.mark.parametrize("rule", EVERY, ids=lambda rule: rule.name)
def test_the_gradient_is_the_weighted_sum_where_nothing_conflicts(rule):
    gradients = torch.eye(3, 5, dtype=torch.float64).repeat(4, 1, 1) * drawn(3, 1).abs()
    found = repeated(rule, drawn(3, name="values").abs(), gradients, 25)
    torch.testing.assert_close(found.gradient, (found.weights[:, :, None] * gradients).sum(1))
    assert (found.weights > 0).all()


@pytest.mark.parametrize("rule", EVERY, ids=lambda rule: rule.name)
def test_tasks_do_not_touch_each_other(rule):
    values, gradients = drawn(3, name="values").abs(), drawn(3, 7)
    broken_values, broken_gradients = values.clone(), gradients.clone()
    broken_values[1], broken_gradients[1] = torch.nan, torch.inf
    clean, beside = (repeated(rule, *pair, 15) for pair in ((values, gradients), (broken_values, broken_gradients)))
    others = torch.tensor([0, 2, 3])
    assert torch.equal(clean.weights[others], beside.weights[others])
    assert torch.equal(clean.gradient[others], beside.gradient[others])


def test_equal_weights_are_one():
    assert (repeated(EqualWeights(), drawn(3), drawn(3, 5), 1).weights == 1).all()


def test_random_weights_are_a_softmax_of_normal_numbers():
    found = RandomLossWeighting().balance(drawn(3), drawn(3, 5), {}, RNG)
    torch.testing.assert_close(found.weights, RNG.normal((3,)).softmax(1))
    many = Stream(1, tasks=range(4000))
    weights = RandomLossWeighting().balance(torch.ones(4000, 2), torch.ones(4000, 2, 1), {}, many).weights
    # For two losses the weight is sigmoid(sqrt(2) z): mean 1/2, deviation 0.265.
    assert weights[:, 0].mean().item() == pytest.approx(0.5, abs=0.02)
    assert weights[:, 0].std().item() == pytest.approx(0.265, abs=0.01)


def test_uncertainty_weighting_ends_where_the_variance_is_the_loss():
    values = torch.tensor([[0.3, 2.0], [1.0, 5.0]])
    found = repeated(UncertaintyWeighting(0.02), values, torch.ones(2, 2, 3), 1500)
    torch.testing.assert_close(found.state["log_variances"].exp(), values, rtol=1e-3, atol=0)
    torch.testing.assert_close(found.weights, 1 / (2 * values), rtol=1e-3, atol=0)


def test_uncertainty_weighting_steps_down_its_own_loss():
    """Adam's first step has the sign of the gradient and the length lr."""
    values = torch.tensor([[0.3, 2.0]], dtype=torch.float64)
    found = repeated(UncertaintyWeighting(0.02), values, drawn(2, 3)[:1], 1)
    logs = torch.zeros(1, 2, dtype=torch.float64, requires_grad=True)
    (values / (2 * logs.exp()) + logs / 2).sum().backward()
    torch.testing.assert_close(found.state["log_variances"], -0.02 * logs.grad.sign(), rtol=1e-6, atol=0)


def test_dynamic_weights_follow_the_ratios_of_the_last_two_means():
    rule = DynamicWeightAverage(2, temperature=2.0)
    losses = torch.tensor([[4.0, 1.0], [2.0, 3.0], [1.0, 2.0], [2.0, 4.0], [3.0, 3.0], [1.0, 1.0], [9.0, 9.0]])
    state, found = rule.begin(losses[:1]), []
    for values in losses:
        answer = rule.balance(values[None], torch.ones(1, 2, 1), state, RNG)
        state = answer.state
        found.append(answer.weights[0])
    means = losses[:6].reshape(3, 2, 2).mean(1)  # [periods, losses]
    for place, ratios in ((4, means[1] / means[0]), (6, means[2] / means[1])):
        wanted = 2 * (ratios / 2).exp() / (ratios / 2).exp().sum()
        torch.testing.assert_close(found[place], wanted)
    for place in range(4):
        torch.testing.assert_close(found[place], torch.ones(2))
    assert torch.equal(found[4], found[5])


def test_gradnorm_equalises_the_norms_of_losses_that_learn_alike():
    gradients = torch.tensor([[[1.0, 0.0], [0.0, 4.0]]])
    found = repeated(GradNorm(0.01), torch.ones(1, 2), gradients, 1000)
    torch.testing.assert_close(found.weights, torch.tensor([[1.6, 0.4]]), atol=0.02, rtol=0)


def test_gradnorm_pulls_harder_on_the_loss_that_lags_behind():
    """Losses at 1/2 and 1/4 of the start: rates 4/3 and 2/3, so the norms' ratio at rest is 2^alpha."""
    rule, gradients = GradNorm(0.005, alpha=1.0), torch.eye(2)[None]
    state = rule.begin(torch.ones(1, 2))
    for step in range(1500):
        found = rule.balance(torch.tensor([[0.5, 0.25]]), gradients, state, RNG.at(step=step))
        state = found.state
    torch.testing.assert_close(found.weights, torch.tensor([[4 / 3, 2 / 3]]), atol=0.02, rtol=0)


def test_two_conflicting_gradients_become_orthogonal_to_each_other():
    gradients = torch.tensor([[[1.0, 0.0, 2.0], [-1.0, 1.0, -1.0]]])
    found = project_conflicts(gradients, RNG.over([0]))
    crossed = found @ gradients.mT
    torch.testing.assert_close(crossed[0].diagonal(offset=1), torch.zeros(1))
    torch.testing.assert_close(crossed[0].diagonal(offset=-1), torch.zeros(1))
    torch.testing.assert_close(found[0, 0], torch.tensor([1.0, 0, 2]) - torch.tensor([-1.0, 1, -1]) * (-3 / 3))


def test_gradients_without_conflict_are_left_alone():
    gradients = drawn(3, 6).abs()
    torch.testing.assert_close(project_conflicts(gradients, RNG), gradients, rtol=0, atol=0)


def test_projections_are_those_of_the_algorithm_step_by_step():
    gradients = drawn(4, 6)
    found, orders = project_conflicts(gradients, RNG), RNG.uniform((4, 4)).argsort(2)
    for task in range(4):
        for i in range(4):
            g = gradients[task, i].clone()
            for j in orders[task, i].tolist():
                other = gradients[task, j]
                if j != i and g @ other < 0:
                    g = g - (g @ other) / (other @ other) * other
            torch.testing.assert_close(found[task, i], g)


def test_a_gradient_of_zero_is_no_conflict():
    gradients = torch.zeros(4, 2, 3)
    gradients[:, 0] = 1
    assert torch.equal(project_conflicts(gradients, RNG), gradients)


def test_what_has_no_meaning_is_refused():
    with pytest.raises(ArgumentError, match="period 0"):
        DynamicWeightAverage(0)
    with pytest.raises(ArgumentError, match="temperature 0"):
        DynamicWeightAverage(temperature=0)
    with pytest.raises(ArgumentError, match="lr is 0"):
        GradNorm(0)


@pytest.mark.parametrize("rule", [DynamicWeightAverage(), GradNorm()], ids=lambda rule: rule.name)
def test_ratios_of_negative_losses_are_refused(rule):
    values, gradients = torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.ones(2, 2, 3)
    state = rule.begin(values)
    with pytest.raises(ArgumentError, match=rf"{rule.name} compares ratios of losses, and one is -0\.5"):
        rule.balance(torch.tensor([[1.0, 2.0], [3.0, -0.5]]), gradients, state, RNG)
    diverged = rule.balance(torch.tensor([[1.0, 2.0], [3.0, -torch.inf]]), gradients, state, RNG)
    assert diverged.weights[0].isfinite().all()


def test_losses_of_zero_have_weights():
    rule, zeros = DynamicWeightAverage(1), torch.zeros(1, 2)
    state = rule.begin(torch.ones(1, 2))
    for _ in range(4):
        found = rule.balance(zeros, torch.ones(1, 2, 3), state, Stream(1, tasks=range(1)))
        state = found.state
    assert found.weights.tolist() == [[1.0, 1.0]]
    with pytest.raises(ArgumentError, match="GradNorm divides by the losses at the start, and one is 0"):
        GradNorm().begin(torch.tensor([[0.0, 1.0]]))
