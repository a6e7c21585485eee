"""Local fits of guided policy search: exact on what they can know, robust to what they cannot."""

import math

import numpy as np
import pytest
import torch

from l2o.errors import ArgumentError
from l2o.methods.guided_policy import dynamics
from l2o.methods.guided_policy.cost import (
    FittedCost,
    GradientFeature,
    NewtonDecrement,
    StateCost,
    Taylor,
    expected_cost,
    fit_cost,
    secant_curvature,
)
from l2o.methods.guided_policy.dynamics import fit_dynamics
from l2o.methods.guided_policy.linearise import initial_controller, linearise_policy, mean_square
from l2o.methods.guided_policy.local_models import QuadraticCost
from l2o.methods.guided_policy.regression import pooled, regress, step_moments

D = torch.float64


def normal(*shape, seed=0):
    return torch.randn(*shape, dtype=D, generator=torch.Generator().manual_seed(seed))


def error(found, truth):
    return float((found - truth).norm() / truth.norm())


def eigenvalues(matrices):
    """Smallest, as a part of the largest."""
    found = torch.linalg.eigvalsh(matrices)
    return float((found[..., 0] / found[..., -1].clamp(min=1e-300)).min())


def linear_system(width, *, trajectories, steps, coordinates, noise, seed):
    """Samples of a stable s' = A s + B a + c + noise."""
    A = normal(width, width, seed=seed)
    A = 0.8 * A / torch.linalg.matrix_norm(A, 2)
    B, c, root = normal(width, seed=seed + 1), normal(width, seed=seed + 2), normal(width, width, seed=seed + 3)
    root = noise * root
    actions = normal(trajectories, steps, coordinates, seed=seed + 4)
    noises = normal(trajectories, steps, coordinates, width, seed=seed + 5) @ root.T
    states = [2 * normal(trajectories, coordinates, width, seed=seed + 6)]
    for t in range(steps):
        states.append(states[-1] @ A.T + actions[:, t, :, None] * B + c + noises[:, t])
    return torch.stack(states, 1), actions, (A, B, c, root @ root.T)


def walk(*, trajectories, steps, coordinates, features, seed=0):
    """Random states that hold x first, the actions that move x, and gradients that depend on the state."""
    actions = 0.1 * normal(trajectories, steps, coordinates, seed=seed)
    start = normal(trajectories, 1, coordinates, seed=seed + 1)
    x = torch.cat([start, start + actions.cumsum(1)], 1)
    others = normal(trajectories, steps + 1, coordinates, features, seed=seed + 2)
    states = torch.cat([x[..., None], others], -1)
    gradients = 1.5 * x + 0.3 * others[..., 0] + 0.2 * normal(*x.shape, seed=seed + 3)
    return states, actions, gradients


class Ragged:
    """Two groups of different numbers of coordinates, in which two of six trajectories die, one of them late."""

    def __init__(self):
        found = [
            walk(trajectories=6, steps=5, coordinates=coordinates, features=3, seed=10 * coordinates)
            for coordinates in (4, 7)
        ]
        self.states, self.actions, self.gradients = (list(part) for part in zip(*found, strict=True))
        self.alive = torch.ones(6, 6, dtype=torch.bool)
        self.alive[4] = False
        self.alive[5, 3:] = False


def test_pooled_windows_equal_a_naive_loop():
    inputs, targets = normal(8, 9, 3, 4), normal(8, 9, 3, 2, seed=1)
    inputs[..., 1] += 50 * torch.arange(9)[None, :, None]  # far means: sums about 0 would lose digits
    alive = normal(8, 9, seed=2) > -0.5
    for window, ridge in ((0, 0.0), (2, 1e-3), (20, 0.1)):
        found = regress(inputs, targets, window=window, ridge=ridge, alive=alive)
        for t in range(9):
            times = [s for s in range(9) if abs(s - t) <= window]
            rows = [
                (inputs[n, s, j], targets[n, s, j]) for s in times for n in range(8) for j in range(3) if alive[n, s]
            ]
            z, y = (np.stack([row[i].numpy() for row in rows]) for i in (0, 1))
            scale = z.std(0)
            # Ridge regression as least squares with one more row for each coefficient.
            lower = np.sqrt(ridge * len(z)) * np.eye(4)
            left = np.concatenate([(z - z.mean(0)) / scale, lower])
            right = np.concatenate([y - y.mean(0), np.zeros((4, 2))])
            W = np.linalg.lstsq(left, right, rcond=None)[0].T / scale
            rest = y - y.mean(0) - (z - z.mean(0)) @ W.T
            np.testing.assert_allclose(found.W[t], W, rtol=1e-9, atol=1e-11)
            np.testing.assert_allclose(found.w[t], y.mean(0) - W @ z.mean(0), rtol=1e-9, atol=1e-9)
            np.testing.assert_allclose(found.residual[t], rest.T @ rest / len(z), rtol=1e-9, atol=1e-11)
            np.testing.assert_allclose(found.r_squared[t], 1 - (rest**2).mean(0) / y.var(0), atol=1e-10)


def test_a_part_of_the_pooled_windows_equals_that_part_of_all():
    each = step_moments([normal(3, 11, 2, 4)])
    whole, part = pooled(each, 3), pooled(each, 3, first=4, last=8)
    for found, all_of_it in zip(vars(part).values(), vars(whole).values(), strict=True):
        assert torch.equal(found, all_of_it[4:8])


def test_constant_regressors_get_coefficient_0():
    inputs = normal(6, 3, 5, 4)
    inputs[..., 1] = 0.0
    inputs[..., 2] = 0.1  # its mean is not exact in binary
    inputs[..., 3] = 1e9 + 0.1  # the rounding of its mean is 1e-7
    targets = 2 * inputs[..., :1] + 1
    found = regress(inputs, targets, window=1, ridge=1e-9)
    assert torch.equal(found.W[..., 1:], torch.zeros(3, 1, 3, dtype=D))
    assert torch.allclose(found.W[..., 0], torch.full((3, 1), 2.0, dtype=D), rtol=1e-8)
    assert torch.allclose(found.w, torch.ones(3, 1, dtype=D), atol=1e-8)


def test_all_regressors_constant_leaves_the_mean():
    targets = normal(4, 2, 3, 1)
    found = regress(torch.ones(4, 2, 3, 2), targets, window=0, ridge=1e-4)
    assert torch.equal(found.W, torch.zeros(2, 1, 2, dtype=D))
    assert torch.allclose(found.w, targets.mean((0, 2)))
    constant = regress(targets, torch.ones(4, 2, 3, 1), window=0, ridge=1e-4)
    assert torch.equal(constant.r_squared, torch.zeros(2, 1, dtype=D))


def test_features_that_all_coordinates_share_need_no_more_trajectories_than_features():
    shared = normal(3, 1, 1, 8).expand(3, 1, 40, 8)  # 3 distinct values of 8 features
    own = normal(3, 1, 40, 1, seed=1)
    targets = own + shared[..., :1]
    found = regress(torch.cat([own, shared], -1), targets, window=0, ridge=1e-4)
    fitted = torch.einsum("tor,ntjr->ntjo", found.W, torch.cat([own, shared], -1)) + found.w[:, None]
    assert (fitted - targets).abs().max() < 1e-2
    assert found.W.abs().max() < 2
    with pytest.raises(
        ArgumentError, match=r"step 0 on 9 regressors from 120 rows is singular .* ridge 0\.0; give a ri"
    ):
        regress(torch.cat([own, shared], -1), targets, window=0, ridge=0.0)


def test_dependent_regressors_need_a_ridge():
    inputs = normal(5, 1, 8, 3)
    inputs = torch.cat([inputs, inputs @ normal(3, 1, seed=1)], -1)
    targets = inputs.sum(-1, keepdim=True)
    found = regress(inputs, targets, window=0, ridge=1e-9)
    assert torch.allclose(torch.einsum("tor,ntjr->ntjo", found.W, inputs) + found.w[:, None], targets, atol=1e-6)
    with pytest.raises(ArgumentError, match="step 0 on 4 regressors from 40 rows is singular"):
        regress(inputs, targets, window=0, ridge=0.0)


def test_fewer_rows_than_regressors_are_fitted_by_small_coefficients():
    inputs, targets = normal(2, 1, 2, 10), normal(2, 1, 2, 1, seed=1)
    found = regress(inputs, targets, window=0, ridge=1e-6)
    fitted = torch.einsum("tor,ntjr->ntjo", found.W, inputs) + found.w[:, None]
    assert torch.allclose(fitted, targets, atol=1e-4)
    z = (inputs - inputs.mean((0, 2), keepdim=True)).reshape(4, 10)
    scale = z.square().mean(0).sqrt()
    least = torch.linalg.pinv(z / scale, rtol=1e-10) @ (targets - targets.mean()).reshape(4, 1)
    assert torch.allclose(found.W[0, 0] * scale, least[:, 0], atol=1e-4)


def test_regressions_refuse_what_has_no_answer():
    inputs, targets = normal(3, 4, 2, 2), normal(3, 4, 2, 1, seed=1)
    alive = torch.ones(3, 4, dtype=torch.bool)
    alive[:, 2:] = False
    with pytest.raises(ArgumentError, match="no trajectory is alive within 0 steps of step 2; fit fewer steps"):
        regress(inputs, targets, window=0, ridge=1e-4, alive=alive)
    assert regress(inputs, targets, window=2, ridge=1e-4, alive=alive).W.isfinite().all()
    with pytest.raises(ArgumentError, match="window is -1 steps"):
        regress(inputs, targets, window=-1, ridge=1e-4)
    for ridge in (-1.0, math.nan, math.inf):
        with pytest.raises(ArgumentError, match=f"ridge is {ridge}"):
            regress(inputs, targets, window=0, ridge=ridge)
    inputs[1, 3, 0, 1] = math.nan
    with pytest.raises(ArgumentError, match="group 7: 1 of 6 rows of step 3 are not finite; mark their trajectories"):
        regress(inputs, targets, window=0, ridge=1e-4, name="group 7")
    with pytest.raises(ArgumentError, match="singular or overflows"):
        regress(1e200 * normal(3, 1, 2, 2), normal(3, 1, 2, 1), window=0, ridge=1e-4)


def test_dynamics_recover_random_stable_systems_from_2000_samples():
    sizes = {"trajectories": 20, "steps": 1, "noise": 0.05}
    made = [linear_system(6, coordinates=coordinates, seed=coordinates, **sizes) for coordinates in (100, 101)]
    # A history that is not full yet is 0, and some features never change.
    states = [torch.nn.functional.pad(state, (0, 1)) for state, _, _ in made]
    states = [torch.nn.functional.pad(state, (0, 1), value=0.3) for state in states]
    found = fit_dynamics(states, [action for _, action, _ in made], window=0, known=None)
    assert all(part.isfinite().all() and part.dtype == D for part in vars(found).values())
    for g, (_, _, (A, B, c, F)) in enumerate(made):
        assert error(found.A[g, 0, :6, :6], A) < 0.02
        assert error(found.B[g, 0, :6, 0], B) < 0.02
        assert error(found.c[g, 0, :6], c) < 0.02
        assert error(found.F[g, 0, :6, :6], F) < 0.10
    assert torch.equal(found.A[..., 6:], torch.zeros_like(found.A[..., 6:]))
    assert found.A[..., 6:, :].abs().max() < 1e-12
    assert torch.allclose(found.c[..., 6:], torch.tensor([0.0, 0.3], dtype=D))
    assert torch.allclose(found.F, found.F.mT)
    assert torch.linalg.eigvalsh(found.F).min() > 0


def test_the_known_row_is_exact():
    states, actions, _ = walk(trajectories=4, steps=6, coordinates=5, features=3)
    for place, order in ((0, [0, 1, 2, 3]), (2, [1, 2, 0, 3])):
        found = fit_dynamics([states[..., order].float()], [actions.float()], window=1, known=place)
        unit = torch.eye(4, dtype=D)[place]
        assert torch.equal(found.A[0, :, place], unit.expand(6, 4))
        assert torch.equal(found.B[0, :, place, 0], torch.ones(6, dtype=D))
        assert torch.equal(found.c[0, :, place], torch.zeros(6, dtype=D))
        assert torch.equal(found.F[0, :, place], 1e-10 * unit.expand(6, 4))
        assert torch.equal(found.F[0, :, :, place], 1e-10 * unit.expand(6, 4))
        assert torch.linalg.eigvalsh(found.F).min() > 0


def test_only_the_known_row_differs_from_the_fit_of_all_rows():
    states, actions, _ = walk(trajectories=4, steps=6, coordinates=5, features=3)
    known, fitted = (fit_dynamics([states], [actions], window=1, known=known, ridge=1e-10) for known in (0, None))
    assert torch.equal(known.A[:, :, 1:], fitted.A[:, :, 1:])
    assert torch.equal(known.F[:, :, 1:, 1:], fitted.F[:, :, 1:, 1:])
    assert torch.allclose(known.A, fitted.A, atol=1e-8)  # x' = x + a is exact in the samples, so the fit finds it
    assert torch.allclose(known.B, fitted.B, atol=1e-8)


def test_dynamics_are_the_most_probable_under_the_prior():
    states, actions, _ = (part[:3] for part in walk(trajectories=3, steps=7, coordinates=2, features=2))
    states = states + torch.arange(8)[None, :, None, None]  # windows have different means
    found = fit_dynamics([states], [actions], window=1, prior_window=3, ridge=1e-13, known=None)
    rows = torch.cat([states[:, :-1], actions[..., None], states[:, 1:]], -1).numpy()
    for t in range(7):
        near, far = (rows[:, max(t - w, 0) : t + w + 1].reshape(-1, 7) for w in (1, 3))
        R, n = len(near), 3 + 2
        apart = near.mean(0) - far.mean(0)
        sigma = R * np.cov(near.T, bias=True) + n * np.cov(far.T, bias=True) + R * n / (R + n) * np.outer(apart, apart)
        sigma, mean = sigma / (R + n), (R * near.mean(0) + n * far.mean(0)) / (R + n)
        W = np.linalg.solve(sigma[:4, :4], sigma[:4, 4:]).T
        np.testing.assert_allclose(torch.cat([found.A, found.B], -1)[0, t], W, atol=1e-8)
        np.testing.assert_allclose(found.c[0, t], mean[4:] - W @ mean[:4], atol=1e-7)
        np.testing.assert_allclose(found.F[0, t], sigma[4:, 4:] - W @ sigma[:4, 4:], atol=1e-8)


def test_blocks_of_steps_change_nothing(monkeypatch):
    states, actions, _ = walk(trajectories=3, steps=7, coordinates=2, features=2)
    whole = fit_dynamics([states], [actions], window=1, prior_window=2, known=0)
    monkeypatch.setattr(dynamics, "BLOCK", 3)
    parts = fit_dynamics([states], [actions], window=1, prior_window=2, known=0)
    for found, part in zip(vars(whole).values(), vars(parts).values(), strict=True):
        assert torch.allclose(found, part, atol=1e-13)


def test_initial_moments_have_a_least_variance():
    states, actions, _ = walk(trajectories=3, steps=2, coordinates=4, features=2)
    states[:, 0, :, 2] = 0.0  # no history yet
    found = fit_dynamics([states], [actions], window=0, known=0)
    first = states[:, 0].reshape(-1, 3).numpy()
    np.testing.assert_allclose(found.mean[0], first.mean(0), atol=1e-14)
    np.testing.assert_allclose(found.covariance[0], np.cov(first.T, bias=True) + np.diag([0, 0, 1e-6]), atol=1e-14)


def test_an_empty_window_takes_the_prior_and_an_empty_prior_is_refused():
    states, actions, _ = walk(trajectories=4, steps=9, coordinates=30, features=2)
    alive = torch.ones(4, 10, dtype=torch.bool)
    alive[:, 6:] = False
    found = fit_dynamics([states], [actions], window=0, prior_window=4, known=None, alive=alive)
    prior = fit_dynamics([states[:, 4:6]], [actions[:, 4:5]], window=0, known=None)  # only transition 4 is within reach
    assert torch.allclose(found.A[0, 8], prior.A[0, 0], atol=1e-4)
    with pytest.raises(ArgumentError, match="group 0: no trajectory is alive within 3 steps of step 8"):
        fit_dynamics([states], [actions], window=0, prior_window=3, known=None, alive=alive)


def test_an_action_that_never_varies_moves_nothing():
    states, actions, _ = walk(trajectories=4, steps=3, coordinates=5, features=2)
    found = fit_dynamics([states], [torch.full_like(actions, 0.1)], window=0, known=None)
    assert torch.equal(found.B, torch.zeros_like(found.B))
    assert found.A.isfinite().all()


@pytest.mark.parametrize(("jitter", "least", "most"), [(0.3, 0.8, 1.0), (0.1, 0.4, 0.7), (0.0, 0.0, 0.1)])
def test_jitter_of_gains_identifies_the_coherent_curvature(jitter, least, most):
    """Independent noise shows the diagonal of a Hessian only; what a shared controller meets is its coherent part."""
    coordinates, trajectories = 64, 2000
    H = 0.1 * torch.eye(coordinates, dtype=D) + 3 / coordinates
    gradient = normal(trajectories, coordinates) @ H
    gains = (jitter * normal(trajectories, 1, seed=1) - jitter**2 / 2).exp()
    actions = -0.2 * gains * gradient
    actions = actions + 0.1 * actions.square().mean().sqrt() * normal(trajectories, coordinates, seed=2)
    states = torch.stack([gradient, gradient + actions @ H], 1)[..., None]
    found = fit_dynamics([states], [actions[:, None]], window=0, known=None)
    assert least <= float(found.B) / 3.1 <= most
    if not jitter:
        assert float(found.B) == pytest.approx(0.1 + 3 / coordinates, rel=0.25)


def separable(*, trajectories=6, steps=12, coordinates=10, curvature=2.5):
    """A separable quadratic whose state holds the exact gradient in place 1, among features that say nothing."""
    actions = 0.2 * normal(trajectories, steps, coordinates, seed=1)
    start, optimum = normal(trajectories, 1, coordinates, seed=2), normal(1, 1, coordinates, seed=3)
    x = torch.cat([start, start + actions.cumsum(1)], 1)
    gradients = curvature * (x - optimum)
    noise = normal(*x.shape, 2, seed=4)
    states = torch.stack([noise[..., 0], gradients, noise[..., 1]], -1)
    return x, optimum, states, actions, gradients


def price_of(cost: QuadraticCost, t, state, *, group=0):
    C, d, e = cost.C[group, t], cost.d[group, t], cost.e[group, t]
    return torch.einsum("...i,ij,...j->...", state, C, state) / 2 + state @ d + e


def test_the_newton_decrement_of_a_separable_quadratic_is_its_excess():
    x, optimum, states, actions, gradients = separable()
    model = NewtonDecrement(window=1, ridge=1e-12)
    found = fit_cost(model, [states], [actions], gradients=[gradients], kappa=torch.ones(1))
    assert found.curvature.item() == pytest.approx(2.5, rel=1e-12)
    assert found.r_squared == pytest.approx(1.0, abs=1e-9)
    excess = 2.5 * (x - optimum).square() / 2  # [trajectories, steps + 1, coordinates]
    for t in (0, 6, 12):
        predicted = price_of(found.cost, t, states[:, t])
        assert torch.allclose(predicted, excess[:, t], atol=1e-6)
        between = predicted[:, :1] - predicted[:, 1:]
        assert torch.allclose(between, excess[:, t, :1] - excess[:, t, 1:], atol=1e-6)


def test_the_newton_decrement_counts_the_whole_gradient_whatever_states_explain():
    states, actions, gradients = walk(trajectories=4, steps=5, coordinates=6, features=2)
    gradients = gradients + normal(*gradients.shape, seed=9)
    model = NewtonDecrement(window=0, ridge=1e-12)
    found = fit_cost(model, [states], [actions], gradients=[gradients], kappa=torch.ones(1))
    mean = torch.stack([price_of(found.cost, t, states[:, t]).mean() for t in range(6)])
    assert (found.r_squared < 0.9).all()
    assert torch.allclose(mean, gradients.square().mean((0, 2)) / (2 * found.curvature))


def test_the_newton_decrement_needs_no_place_of_optima_and_taylor_does():
    """With optima around 0, expansions in x average to a shared decay; the gradient in the state knows better."""
    x, optimum, _, actions, gradients = separable(trajectories=40, coordinates=50)
    states = torch.stack([x, gradients], -1)
    excess = 2.5 * (x - optimum).square() / 2
    correlations = []
    for model in (NewtonDecrement(ridge=1e-9), Taylor(x=0)):
        found = fit_cost(model, [states], [actions], gradients=[gradients])
        predicted = price_of(found.cost, 6, states[:, 6])
        correlations.append(float(torch.corrcoef(torch.stack([predicted.flatten(), excess[:, 6].flatten()]))[0, 1]))
    assert correlations[0] > 0.999
    assert correlations[1] < 0.7


def test_r_squared_is_the_part_of_the_gradient_that_states_explain():
    states = normal(30, 5, 40, 2)
    gradients = states[..., 0] + normal(30, 5, 40, seed=1)  # half of its variance
    found = fit_cost(NewtonDecrement(), [states], [0.1 * normal(30, 4, 40, seed=2)], gradients=[gradients])
    assert found.r_squared.shape == (1, 5)
    assert found.r_squared == pytest.approx(0.5, abs=0.05)


def test_the_secant_finds_the_coherent_curvature_of_coherent_moves():
    H = 0.1 * torch.eye(20, dtype=D) + 3 / 20
    together = normal(5, 8, 1).expand(5, 8, 20)
    x = torch.cat([torch.zeros(5, 1, 20, dtype=D), together.cumsum(1)], 1)
    assert secant_curvature(together, x @ H).item() == pytest.approx(3.1, rel=1e-12)
    alone = torch.zeros(5, 8, 20, dtype=D)
    alone[..., 3] = normal(5, 8, seed=1)
    x = torch.cat([torch.zeros(5, 1, 20, dtype=D), alone.cumsum(1)], 1)
    assert secant_curvature(alone, x @ H).item() == pytest.approx(0.1 + 3 / 20, rel=1e-12)


def test_the_secant_has_a_floor():
    actions, gradients = normal(3, 4, 2), torch.zeros(3, 5, 2, dtype=D)
    gradients[:, 1:] = -actions.cumsum(1)  # negative curvature
    assert secant_curvature(actions, gradients, least=1e-3).item() == 1e-3
    assert secant_curvature(torch.zeros(3, 4, 2), gradients).item() == 1e-6


def test_gradient_feature_and_taylor_have_closed_forms():
    states, actions, gradients = walk(trajectories=4, steps=5, coordinates=6, features=2)
    h = float(secant_curvature(actions, gradients))
    found = fit_cost(GradientFeature(1), [states], [actions], gradients=[gradients], kappa=torch.ones(1))
    expected = torch.zeros(3, 3, dtype=D)
    expected[1, 1] = 1 / h
    assert torch.allclose(found.cost.C, expected.expand(1, 6, 3, 3))
    assert not found.cost.d.any()
    assert not found.cost.e.any()
    assert found.r_squared.isnan().all()
    found = fit_cost(Taylor(0, window=1), [states], [actions], gradients=[gradients], kappa=torch.ones(1))
    assert torch.allclose(found.cost.C[..., 0, 0], torch.full((1, 6), h, dtype=D))
    slope = [(gradients - h * states[..., 0])[:, max(t - 1, 0) : t + 2].mean() for t in range(6)]
    assert torch.allclose(found.cost.d[0, :, 0], torch.stack(slope))
    assert not found.cost.C[..., 1:].any()
    lowest = -found.cost.d[0, :, 0] / h
    for t in range(6):
        assert price_of(found.cost, t, lowest[t] * torch.eye(3, dtype=D)[0]).item() == pytest.approx(0, abs=1e-12)


MODELS = [NewtonDecrement(window=1), GradientFeature(1), Taylor(0, window=1)]


@pytest.mark.parametrize("model", MODELS)
def test_scaled_costs_are_1_in_the_mean_and_convex(model):
    data = Ragged()
    data.gradients[1] = 1e-4 * data.gradients[1]
    found = fit_cost(model, data.states, data.actions, gradients=data.gradients, alive=data.alive)
    for g in range(2):
        costs = [price_of(found.cost, t, data.states[g][data.alive[:, t], t], group=g).mean() for t in range(6)]
        assert torch.stack(costs).mean().item() == pytest.approx(1.0, rel=1e-12)
    assert torch.equal(found.cost.C, found.cost.C.mT)
    assert eigenvalues(found.cost.C) > -1e-12


@pytest.mark.parametrize("model", MODELS)
def test_a_given_kappa_multiplies_the_raw_cost(model):
    data = Ragged()
    raw, scaled = (
        fit_cost(model, data.states, data.actions, gradients=data.gradients, kappa=torch.tensor(kappa))
        for kappa in ([1.0, 1.0], [3.0, 0.5])
    )
    assert torch.equal(scaled.kappa, torch.tensor([3.0, 0.5], dtype=D))
    for name in "Cde":
        one, other = getattr(raw.cost, name), getattr(scaled.cost, name)
        assert torch.allclose(other[0], 3 * one[0])
        assert torch.allclose(other[1], 0.5 * one[1])
    assert raw.cost.C.abs().max() > 0
    assert torch.equal(scaled.cost.r, raw.cost.r)


def test_actions_have_a_price_in_units_of_their_mean_square():
    data = Ragged()
    for price in (1e-6, 0.0):
        found = fit_cost(
            NewtonDecrement(), data.states, data.actions, gradients=data.gradients, price=price, alive=data.alive
        )
        both = data.alive[:, :-1] & data.alive[:, 1:]
        expected = torch.stack([price / action[both].square().mean() for action in data.actions])
        assert torch.allclose(found.cost.r, expected)
    still = [torch.zeros_like(action) for action in data.actions]
    found = fit_cost(NewtonDecrement(), data.states, still, gradients=data.gradients)
    assert torch.equal(found.cost.r, torch.zeros(2, dtype=D))


def test_costs_refuse_what_has_no_answer():
    data = Ragged()

    def fit(model=MODELS[0], **changes):
        return fit_cost(model, data.states, data.actions, **{"gradients": data.gradients, **changes})

    with pytest.raises(ArgumentError, match=r"group 0: its samples cost 0 in the mean, .* or pass kappa"):
        fit(gradients=[torch.zeros_like(gradient) for gradient in data.gradients])
    with pytest.raises(ArgumentError, match="price is -1"):
        fit(price=-1.0)
    with pytest.raises(ArgumentError, match="least_curvature is 0"):
        fit(least_curvature=0.0)
    for kappa in ([1.0], [1.0, 0.0], [1.0, math.nan]):
        with pytest.raises(ArgumentError, match="it must hold 2 positive numbers"):
            fit(kappa=torch.tensor(kappa))
    with pytest.raises(ArgumentError, match="group 0: feature is 4; of 4 states"):
        fit(GradientFeature(4))
    with pytest.raises(ArgumentError, match="group 0: x is -1; of 4 states"):
        fit(Taylor(-1))
    with pytest.raises(ArgumentError, match="no trajectory is alive for two states in a row"):
        fit(alive=torch.eye(6, dtype=torch.bool))
    data.gradients[1][0, 2, 3] = math.inf
    with pytest.raises(ArgumentError, match="group 1: actions or gradients of living trajectories are not finite"):
        fit()


def test_expected_cost_is_nan_where_nobody_lives():
    states, alive = normal(2, 3, 4, 2), torch.tensor([[True, True, False]] * 2)
    found = StateCost(
        torch.zeros(3, 2, 2, dtype=D), torch.zeros(3, 2, dtype=D), torch.arange(3.0, dtype=D), torch.ones(3)
    )
    mean = expected_cost(found, states, alive=alive)
    assert mean[:2].tolist() == [0.0, 1.0]
    assert mean[2].isnan()


def test_linearising_a_linear_policy_returns_it():
    states = [normal(10, 6, coordinates, 3, seed=coordinates) for coordinates in (30, 40)]
    K, k = normal(2, 5, 3, seed=1), normal(2, 5, seed=2)
    means = [torch.einsum("ti,ntji->ntj", K[g], states[g][:, :-1]) + k[g][:, None] for g in range(2)]
    actions = [mean + normal(*mean.shape, seed=3) for mean in means]
    variance = torch.tensor([0.3, 0.7], dtype=D)
    for ridge, tolerance in ((1e-12, 1e-10), (1e-4, 1e-3)):
        found = linearise_policy(states, means, actions=actions, variance=variance, window=0, ridge=ridge)
        assert torch.allclose(found.K[:, :, 0], K, atol=tolerance)
        assert torch.allclose(found.k[..., 0], k, atol=tolerance)
        assert torch.allclose(found.G, variance[:, None, None, None].expand(2, 5, 1, 1), atol=tolerance)


def test_what_states_do_not_explain_is_variance_of_a_linearised_policy():
    states = normal(40, 3, 60, 2)
    means = states[:, :-1, :, 0] + 0.5 * normal(40, 2, 60, seed=1)
    found = linearise_policy([states], [means], actions=[means], variance=torch.tensor([0.1]), window=1)
    assert found.G.flatten().tolist() == pytest.approx([0.35, 0.35], rel=0.05)


def test_a_linearised_policy_has_a_least_variance():
    states, actions = normal(4, 6, 5, 2), 3 * normal(4, 5, 5, seed=1)
    means = states[:, :-1, :, 0]
    found = linearise_policy(
        [states], [means], actions=[actions], variance=torch.tensor([1e-12]), window=1, ridge=1e-12
    )
    for t in range(5):
        expected = 1e-4 * actions[:, max(t - 1, 0) : t + 2].square().mean()
        assert found.G[0, t].item() == pytest.approx(float(expected), rel=1e-12)


def averages(gradients):
    """Of the three latest, over the second axis."""
    return torch.stack([gradients[:, max(t - 2, 0) : t + 1].mean(1) for t in range(gradients.shape[1])], 1)


def normalised_gradients(gradients, count):
    """v_i(t) of `[trajectories, times, coordinates]`, written down from their definition: `[..., count]`."""
    mean, times = averages(gradients), gradients.shape[1]
    found = torch.zeros(*gradients.shape, count, dtype=D)
    for t in range(times):
        for i in range(t // 5 + 1):
            if i < count:
                found[:, t, :, i] = mean[:, t - 5 * i] / (mean[:, max(t - 5 * (i + 1), t % 5)].abs() + 1)
    return found


def momentum_blocks(rate, decay, count):
    """Sums of decay^l over lags 0 to 3, then 4 to 8, 9 to 13 and so on, times -rate."""
    lags = [range(4)] + [range(5 * i - 1, 5 * i + 4) for i in range(1, count)]
    return torch.tensor([-rate * sum(decay**lag for lag in block) for block in lags], dtype=D)


def test_gains_of_momentum_have_their_closed_form_where_gradients_vary_slowly():
    rate, decay, count = 0.3, 0.8, 4
    last = 5 * count - 2  # its lags are 0 to 18: four blocks
    levels = 1e-5 * normal(8, count, 30)  # small, so that the normalisation is 1
    blocks = [max(lag + 1, 0) // 5 if lag > 3 else 0 for lag in range(last + 1)]
    gradients = torch.stack([levels[:, blocks[last - t]] for t in range(last + 1)] + [levels[:, 0]], 1)
    actions, velocity = [], torch.zeros(8, 30, dtype=D)
    for t in range(last + 1):
        velocity = decay * velocity + gradients[:, t]
        actions.append(-rate * velocity)
    states = torch.cat([normal(8, last + 2, 30, 1), normalised_gradients(gradients, count)], -1)
    found = initial_controller([states], [torch.stack(actions, 1)], features=range(1, count + 1), window=0, ridge=1e-8)
    assert torch.allclose(found.K[0, last, 0, 1:], momentum_blocks(rate, decay, count), rtol=1e-3)
    assert found.K[..., 0].abs().max() == 0
    assert not found.k.any()


def test_the_first_controller_of_momentum_on_a_quadratic_descends_and_forgets():
    rate, decay, count, steps = 0.05, 0.9, 6, 60
    x, velocity, curvature = normal(30, 20), torch.zeros(30, 20, dtype=D), 0.2
    gradients, actions = [], []
    for t in range(steps + 1):
        gradients.append(curvature * x + 0.03 * normal(30, 20, seed=100 + t))  # of a minibatch
        velocity = decay * velocity + gradients[-1]
        actions.append(-rate * velocity)
        x = x + actions[-1]
    actions = torch.stack(actions[:-1], 1)
    states = normalised_gradients(torch.stack(gradients, 1), count)
    found = initial_controller([states], [actions], features=range(count), window=3)
    gains = found.K[0, 30:, 0]  # [steps, features], where all features are there
    assert (gains < 0).all()
    assert (gains[:, :-1].abs() > gains[:, 1:].abs()).all()
    assert torch.allclose(gains.mean(0), momentum_blocks(rate, decay, count), rtol=0.3)  # gradients vary between lags
    fitted = torch.einsum("ti,ntji->ntj", found.K[0, :, 0], states[:, :-1])
    assert (fitted - actions).square().mean() < 0.05 * actions.square().mean()
    assert torch.allclose(found.G[..., 0, 0], 0.01 * mean_square([actions], window=3))
    # Without noise, the controller and momentum get about as far.
    ends = []
    for momentum in (True, False):
        x, velocity, past = normal(30, 20), torch.zeros(30, 20, dtype=D), []
        for t in range(steps):
            past.append(curvature * x)
            velocity = decay * velocity + past[-1]
            features = normalised_gradients(torch.stack(past, 1), count)[:, -1]
            x = x + (-rate * velocity if momentum else features @ found.K[0, t, 0])
        ends.append(float(x.square().mean()))
    assert max(ends) < 0.05, ends


def test_the_first_controller_goes_through_the_origin():
    states, slope = 1 + 0.1 * normal(5, 4, 6, 2), 2.0
    actions = slope * states[:, :-1, :, 0] + 1
    found = initial_controller([states], [actions], features=[0], window=0, ridge=0.0)
    z = states[:, :-1, :, 0]
    expected = (z * actions).sum((0, 2)) / z.square().sum((0, 2))  # least squares without an offset
    assert torch.allclose(found.K[0, :, 0, 0], expected)


def test_controllers_refuse_what_has_no_answer():
    data = Ragged()

    def first(**changes):
        return initial_controller(data.states, data.actions, **{"features": [1], "window": 0, **changes})

    for features in ([], [1, 1], [4], [-1]):
        with pytest.raises(ArgumentError, match="they must be different places in 0 to 3, at least one"):
            first(features=features)
    with pytest.raises(ArgumentError, match="noise is 0"):
        first(noise=0.0)
    with pytest.raises(ArgumentError, match=r"variance is .*it must hold 2 positive numbers"):
        linearise_policy(data.states, data.actions, actions=data.actions, variance=torch.zeros(2), window=1)
    data.actions[1][:, 3] = 0
    with pytest.raises(ArgumentError, match="group 1: all actions are 0 within 0 steps of step 3"):
        first()


FITS = {
    "dynamics": lambda data: fit_dynamics(data.states, data.actions, window=1, known=0, alive=data.alive),
    "newton decrement": lambda data: flat(
        fit_cost(NewtonDecrement(window=1), data.states, data.actions, gradients=data.gradients, alive=data.alive)
    ),
    "taylor": lambda data: flat(
        fit_cost(Taylor(0, window=1), data.states, data.actions, gradients=data.gradients, alive=data.alive)
    ),
    "linearised policy": lambda data: linearise_policy(
        data.states, data.actions, actions=data.actions, variance=torch.ones(2), window=1, alive=data.alive
    ),
    "first controller": lambda data: initial_controller(
        data.states, data.actions, features=[1, 2], window=1, alive=data.alive
    ),
}


def flat(found: FittedCost):
    return found.cost


@pytest.mark.parametrize("fit", FITS.values(), ids=FITS)
def test_dead_samples_are_as_if_left_out(fit):
    data, poisoned, without = Ragged(), Ragged(), Ragged()
    for g in range(2):
        for part, value in ((poisoned.states, math.nan), (poisoned.gradients, math.inf)):
            part[g][4], part[g][5, 3:] = value, value
        poisoned.actions[g][4], poisoned.actions[g][5, 2:] = math.nan, math.inf
        for part in (without.states, without.actions, without.gradients):
            part[g] = part[g][[0, 1, 2, 3, 5]]
    without.alive = without.alive[[0, 1, 2, 3, 5]]
    masked = vars(fit(data))
    for other in (poisoned, without):
        for name, found in vars(fit(other)).items():
            assert torch.allclose(found, masked[name], rtol=1e-12, atol=1e-14), name
    alone = Ragged()
    alone.alive[:] = True
    assert any(not torch.allclose(found, masked[name]) for name, found in vars(fit(alone)).items())


@pytest.mark.parametrize("fit", FITS.values(), ids=FITS)
def test_each_group_is_fitted_as_if_alone(fit):
    whole = vars(fit(Ragged()))
    for g in range(2):
        alone = Ragged()
        for name in ("states", "actions", "gradients"):
            setattr(alone, name, [getattr(alone, name)[g]] * 2)
        for name, found in vars(fit(alone)).items():
            assert torch.equal(found[0], whole[name][g]), name


@pytest.mark.parametrize("fit", FITS.values(), ids=FITS)
def test_fits_are_float64_whatever_the_samples(fit):
    single, double = Ragged(), Ragged()
    for name in ("states", "actions", "gradients"):
        setattr(single, name, [part.float() for part in getattr(single, name)])
        setattr(double, name, [part.float().double() for part in getattr(double, name)])
    for found, exact in zip(vars(fit(single)).values(), vars(fit(double)).values(), strict=True):
        assert found.dtype == D
        assert torch.allclose(found, exact, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("fit", FITS.values(), ids=FITS)
def test_dead_and_infinite_samples_are_refused(fit):
    data = Ragged()
    data.alive[:] = False
    with pytest.raises(ArgumentError, match="alive is False everywhere: all samples are dead"):
        fit(data)
    data = Ragged()
    for part in (data.states, data.gradients):
        part[1][2, 3, 0] = math.nan
    with pytest.raises(ArgumentError, match=r"group 1.*not finite"):
        fit(data)


def test_samples_that_do_not_belong_together_are_refused():
    data = Ragged()
    options = {"window": 1, "known": 0}
    with pytest.raises(ArgumentError, match="there are no groups"):
        fit_dynamics([], [], **options)
    with pytest.raises(ArgumentError, match="states have 1 times"):
        fit_dynamics([data.states[0][:, :1]], [data.actions[0][:, :0]], **options)
    with pytest.raises(ArgumentError, match=r"states of group 1 have shape .* only coordinates may differ"):
        fit_dynamics([data.states[0], data.states[1][..., :2]], data.actions, **options)
    with pytest.raises(ArgumentError, match="actions have 1 groups and states have 2"):
        fit_dynamics(data.states, data.actions[:1], **options)
    with pytest.raises(ArgumentError, match=r"actions of group 1 have shape .* it must be \(6, 5, 7\)"):
        fit_dynamics(data.states, data.actions[:1] * 2, **options)
    with pytest.raises(ArgumentError, match=r"gradients of group 0 have shape .* it must be \(6, 6, 4\)"):
        fit_cost(NewtonDecrement(), data.states, data.actions, gradients=data.actions)
    for alive in (data.alive[:, :-1], data.alive.double()):
        with pytest.raises(ArgumentError, match=r"it must be torch.bool of shape \(6, 6\), one for each state"):
            fit_dynamics(data.states, data.actions, **options, alive=alive)
    with pytest.raises(ArgumentError, match="prior_window is 0 and window 1"):
        fit_dynamics(data.states, data.actions, **options, prior_window=0)
    with pytest.raises(ArgumentError, match="known is 4; of 4 states"):
        fit_dynamics(data.states, data.actions, window=1, known=4)
    with pytest.raises(
        ArgumentError, match=r"group 0: component 1 of the state moves by .* more or less than the action"
    ):
        fit_dynamics(data.states, data.actions, window=1, known=1)
