"""How controllers and policy meet: toys whose answers are known."""

import pytest
import torch

from l2o.errors import ArgumentError
from l2o.methods.guided_policy.alternation import BregmanADMM, Duals, MirrorDescent, policy_variance
from l2o.methods.guided_policy.local_models import Dynamics, LinearGaussian, QuadraticCost
from l2o.methods.guided_policy.lqg import solve

WANTED = (2.0, 4.0)


def _doubles(*values):
    return torch.tensor(values, dtype=torch.float64)


def _constant(actions, variance):
    """A controller of one step that does not look at its state."""
    k = torch.as_tensor(actions, dtype=torch.float64).reshape(-1, 1, 1)
    return LinearGaussian(torch.zeros(len(k), 1, 1, 1).double(), k, torch.full_like(k, variance)[..., None])


def _meet(alternation, penalty, iterations=400, variance=0.04):
    """Two tasks that want the actions 2 and 4, and one policy for both: the state after a step is the action."""
    zeros, ones = torch.zeros(2, 1, 1, 1).double(), torch.ones(2, 1, 1, 1).double()
    dynamics = Dynamics(zeros, ones, zeros[..., 0], 1e-6 * ones, zeros[:, 0, 0], 1e-6 * ones[:, 0])
    C = torch.stack([zeros[:, 0], ones[:, 0]], dim=1)
    d = torch.stack([zeros[:, 0, 0], -_doubles(*WANTED)[:, None]], dim=1)
    cost = QuadraticCost(C, d, torch.zeros(2, 2).double(), torch.zeros(2).double())
    duals = Duals(torch.zeros(2, 1, 1).double(), _doubles(*penalty)[:, None], _doubles(*penalty), _doubles(0.0)[0])
    controller, theta = _constant([0.0, 0.0], variance), 0.0
    for _ in range(iterations):
        weights, added = alternation.weights(controller, duals)
        targets = controller.k[..., 0] + added
        theta = float((weights * targets).sum() / weights.sum())
        duals = alternation.stepped(duals, controller, theta - controller.k[..., 0])
        policy = _constant([theta, theta], variance)
        control = alternation.control(controller, policy, duals)
        found, failed = solve(
            dynamics,
            cost,
            previous=control.previous,
            multiplier=_doubles(1e-6, 1e-6),
            policy=control.policy,
            penalty=control.penalty,
            dual=control.dual,
        )
        assert not bool(failed.any())
        controller = _constant(found.k, variance)
    return theta, controller.k.flatten(), duals.dual.flatten()


@pytest.mark.parametrize("penalty", [(0.1, 0.1), (0.1, 0.5)])
def test_two_tasks_agree_on_what_is_best_for_both(penalty):
    theta, actions, duals = _meet(BregmanADMM(), penalty)
    assert theta == pytest.approx(3.0, abs=1e-3)
    torch.testing.assert_close(actions, _doubles(3.0, 3.0), rtol=0, atol=1e-3)
    torch.testing.assert_close(duals, _doubles(1.0, -1.0), rtol=0, atol=1e-3)


def test_targets_shifted_by_the_product_would_end_elsewhere():
    class Product(BregmanADMM):
        def weights(self, controller, duals):
            weights, _ = super().weights(controller, duals)
            return weights, -controller.G[..., 0, 0] * duals.penalty * duals.dual[..., 0]

    theta, _, _ = _meet(Product(), (0.1, 0.5))
    assert abs(theta - 3.0) > 0.5


@pytest.mark.parametrize("entropy", [0.0, 0.5])
def test_the_policys_variance_minimises_its_divergence(entropy):
    G, weights = _doubles(0.2, 1.0, 3.0), _doubles(1.0, 0.3, 2.0)
    controller = LinearGaussian(torch.zeros(1, 3, 1, 1).double(), torch.zeros(1, 3, 1).double(), G[None, :, None, None])
    found = float(policy_variance(controller, weights[None], entropy=entropy))
    grid = torch.linspace(0.01, 5, 500_000, dtype=torch.float64)
    objective = (weights[:, None] / 2 * (grid / G[:, None] - grid.log())).sum(0)
    objective += weights.sum() * entropy / G.mean() * grid
    assert found == pytest.approx(float(grid[objective.argmin()]), abs=2e-5)


def test_penalties_follow_the_disagreement():
    first = _doubles(1.0)
    duals = Duals(torch.zeros(1, 4, 1).double(), torch.ones(1, 4).double(), first, _doubles(0.0)[0])
    divergence = _doubles(0.0, 2.0, 2.0, 9.0)[None]
    adapted = BregmanADMM().adapted(duals, divergence)
    assert adapted.penalty.flatten().tolist() == [1.0, 1.0, 1.0, 2.0]
    agreed = BregmanADMM().adapted(duals, _doubles(0.0, 7.0, 7.0, 9.0)[None])
    assert agreed.penalty.flatten().tolist() == [0.5, 1.0, 1.0, 2.0]
    risen = BregmanADMM().adapted(adapted, 2 * divergence)
    assert risen.penalty.flatten().tolist() == [1.5, 1.5, 1.5, 6.0]
    bounded = Duals(duals.dual, torch.full((1, 4), 900.0).double(), first, duals.divergence)
    assert BregmanADMM().adapted(bounded, divergence).penalty.max() == 1000.0


def test_duals_stay_within_their_bound():
    duals = Duals(torch.zeros(1, 1, 1).double(), _doubles(2.0)[None], _doubles(2.0), _doubles(0.0)[0])
    stepped = BregmanADMM().stepped(duals, _constant([0.0], 0.25), _doubles(1e6)[None])
    assert float(stepped.dual) == pytest.approx(10 * 2.0 / 0.5)


def test_the_first_penalty_is_a_share_of_the_multiplier_and_stays():
    duals = BregmanADMM(share=0.1).penalised(Duals.none(2, 3), _doubles(4.0, 8.0))
    assert duals.penalty.tolist() == [[0.4] * 3, [0.8] * 3]
    again = BregmanADMM(share=0.1).penalised(duals, _doubles(100.0, 100.0))
    assert torch.equal(again.penalty, duals.penalty)


def test_mirror_descent_starts_from_the_policy_and_has_no_duals():
    alternation, duals = MirrorDescent(), Duals.none(1, 1)
    own, policy = _constant([1.0], 0.5), _constant([2.0], 0.5)
    control = alternation.control(own, policy, duals)
    assert control.previous is policy
    assert control.policy is None
    assert alternation.stepped(duals, own, _doubles(1.0)[None]) is duals
    weights, added = alternation.weights(own, duals)
    assert (float(weights), float(added)) == (2.0, 0.0)


def test_impossible_steps_are_refused():
    with pytest.raises(ArgumentError, match="alpha is 2"):
        BregmanADMM(alpha=2.0)
