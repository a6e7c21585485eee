"""LQG against independent recursions, sampling and autograd; the dual search against its own bound."""

import math

import numpy as np
import pytest
import scipy.linalg
import torch
from torch.distributions import MultivariateNormal, kl_divergence

from l2o.errors import ArgumentError, DivergedError
from l2o.methods.guided_policy.dual_search import LEAST, Standing, constrained
from l2o.methods.guided_policy.local_models import Dynamics, LinearGaussian, QuadraticCost
from l2o.methods.guided_policy.lqg import Moments, expected_cost, forward, kl, solve
from l2o.methods.guided_policy.threads import one_thread

D = torch.float64


def draw(seed):
    generator = torch.Generator().manual_seed(seed)
    return lambda *shape: torch.randn(*shape, generator=generator, dtype=D)


def positive(normal, *shape):
    """Random matrices `[*shape, n, n]` with eigenvalues of at least 0.1, for shape (..., n)."""
    root = normal(*shape, shape[-1])
    return root @ root.mT / shape[-1] + 0.1 * torch.eye(shape[-1], dtype=D)


def system(seed=0, groups=1, steps=6, states=3, actions=2, price=0.5):
    """Random stable dynamics and a random convex cost."""
    normal = draw(seed)
    dynamics = Dynamics(
        A=0.5 * normal(groups, steps, states, states),
        B=normal(groups, steps, states, actions),
        c=0.3 * normal(groups, steps, states),
        F=0.1 * positive(normal, groups, steps, states),
        mean=normal(groups, states),
        covariance=positive(normal, groups, states),
    )
    cost = QuadraticCost(
        C=positive(normal, groups, steps + 1, states),
        d=normal(groups, steps + 1, states),
        e=normal(groups, steps + 1),
        r=torch.full((groups,), price, dtype=D),
    )
    return dynamics, cost


def controller(seed, groups=1, steps=6, states=3, actions=2):
    normal = draw(seed)
    return LinearGaussian(
        0.3 * normal(groups, steps, actions, states),
        normal(groups, steps, actions),
        0.3 * positive(normal, groups, steps, actions),
    )


def tied(seed, groups=1, steps=6, states=3, actions=2):
    """A policy with random penalties and duals, as arguments."""
    normal = draw(seed)
    return {
        "policy": controller(seed + 1, groups, steps, states, actions),
        "penalty": 0.1 + normal(groups, steps).abs(),
        "dual": normal(groups, steps, actions),
    }


def of(model, group):
    return type(model)(*(leaf[group : group + 1] for leaf in vars(model).values()))


def free(previous):
    """The same controller, but so wide that nothing pulls towards it."""
    return LinearGaussian(previous.K, previous.k, 1e12 * torch.eye(previous.k.shape[2], dtype=D).expand_as(previous.G))


def numbers(*values):
    return torch.tensor(values, dtype=D)


def close(found, wanted, tolerance):
    return all(
        torch.allclose(a, b, rtol=tolerance, atol=tolerance)
        for a, b in zip(vars(found).values(), vars(wanted).values(), strict=True)
    )


@pytest.mark.parametrize("actions", [1, 2])
def test_without_penalties_the_gains_are_those_of_the_riccati_recursion(actions):
    shape = {"steps": 30, "states": 4, "actions": actions}
    dynamics, cost = system(1, **shape)
    found, failed = solve(dynamics, cost, previous=free(controller(2, **shape)), multiplier=numbers(LEAST))
    assert not failed.any()
    # An independent form: the offsets belong to a fifth state that is always 1.
    A, B, c, C, d = (leaf[0].numpy() for leaf in (dynamics.A, dynamics.B, dynamics.c, cost.C, cost.d))

    def bordered(t):
        return np.block([[C[t], d[t][:, None]], [d[t][None], np.zeros((1, 1))]])

    value = bordered(30)
    for t in reversed(range(30)):
        a = np.block([[A[t], c[t][:, None]], [np.zeros((1, 4)), np.ones((1, 1))]])
        b = np.vstack([B[t], np.zeros((1, actions))])
        gain = -np.linalg.inv(0.5 * np.eye(actions) + b.T @ value @ b) @ (b.T @ value @ a)
        closed = a + b @ gain
        value = bordered(t) + 0.5 * gain.T @ gain + closed.T @ value @ closed
        ours = np.hstack([found.K[0, t].numpy(), found.k[0, t].numpy()[:, None]])
        np.testing.assert_allclose(ours, gain, rtol=1e-8, atol=1e-8)


def test_far_from_the_end_the_gain_is_that_of_the_algebraic_riccati_equation():
    steps, normal = 300, draw(3)
    A, B, C = 0.6 * normal(4, 4), normal(4, 2), positive(normal, 4)
    dynamics = Dynamics(
        A.expand(1, steps, 4, 4),
        B.expand(1, steps, 4, 2),
        torch.zeros(1, steps, 4, dtype=D),
        torch.zeros(1, steps, 4, 4, dtype=D),
        torch.zeros(1, 4, dtype=D),
        torch.eye(4, dtype=D)[None],
    )
    flat = torch.zeros(1, steps + 1, 4, dtype=D)
    cost = QuadraticCost(C.expand(1, steps + 1, 4, 4), flat, flat[..., 0], numbers(0.7))
    previous = free(controller(4, 1, steps, 4, 2))
    found, _ = solve(dynamics, cost, previous=previous, multiplier=numbers(LEAST))
    P = scipy.linalg.solve_discrete_are(A.numpy(), B.numpy(), C.numpy(), 0.7 * np.eye(2))
    gain = -np.linalg.solve(0.7 * np.eye(2) + B.numpy().T @ P @ B.numpy(), B.numpy().T @ P @ A.numpy())
    np.testing.assert_allclose(found.K[0, 0].numpy(), gain, rtol=1e-6, atol=1e-6)


def test_the_recursion_equals_the_one_scaled_by_the_temperature_of_each_step():
    dynamics, cost = system(5)
    previous, ties, beta = controller(6), tied(7), 0.4
    found, _ = solve(dynamics, cost, previous=previous, multiplier=numbers(beta), **ties)
    nu = ties["penalty"][0]
    taus = [*(nu + beta).tolist(), 1.0]  # the last state's divisor cancels
    V, v = cost.C[0, 6], cost.d[0, 6]
    for t in reversed(range(6)):
        tau = taus[t]
        quadratic = torch.block_diag(cost.C[0, t], 0.5 * torch.eye(2, dtype=D)) / tau
        linear = torch.cat([cost.d[0, t], -ties["dual"][0, t]]) / tau
        for towards, share in ((previous, beta / tau), (ties["policy"], nu[t] / tau)):
            K, k, inverse = towards.K[0, t], towards.k[0, t], torch.linalg.inv(towards.G[0, t])
            quadratic = quadratic + share * torch.cat(
                [torch.cat([K.T @ inverse @ K, -K.T @ inverse], 1), torch.cat([-inverse @ K, inverse], 1)]
            )
            linear = linear + share * torch.cat([K.T @ inverse @ k, -inverse @ k])
        ratio, F = taus[t + 1] / tau, torch.cat([dynamics.A[0, t], dynamics.B[0, t]], 1)
        Q = quadratic + ratio * F.T @ V @ F
        q = linear + ratio * F.T @ (v + V @ dynamics.c[0, t])
        K, k = -torch.linalg.solve(Q[3:, 3:], Q[3:, :3]), -torch.linalg.solve(Q[3:, 3:], q[3:])
        V, v = Q[:3, :3] + Q[:3, 3:] @ K, q[:3] + Q[:3, 3:] @ k
        for ours, theirs in ((found.K, K), (found.k, k), (found.G, torch.linalg.inv(Q[3:, 3:]))):
            assert torch.allclose(ours[0, t], theirs, rtol=1e-10, atol=1e-10)


def test_moments_and_the_expected_cost_are_those_of_samples():
    dynamics, cost = system(8, steps=10)
    psi, samples, normal = controller(9, steps=10), 100_000, draw(10)
    s = MultivariateNormal(dynamics.mean[0], dynamics.covariance[0])
    states = s.mean + normal(samples, 3) @ s.scale_tril.T
    earned = torch.zeros(samples, dtype=D)
    for t in range(11):
        earned += (states @ cost.C[0, t] * states).sum(1) / 2 + states @ cost.d[0, t] + cost.e[0, t]
        if t == 10:
            break
        noise = normal(samples, 2) @ torch.linalg.cholesky(psi.G[0, t]).T
        action = states @ psi.K[0, t].T + psi.k[0, t] + noise
        earned += 0.5 * action.square().sum(1) / 2
        noise = normal(samples, 3) @ torch.linalg.cholesky(dynamics.F[0, t]).T
        states = states @ dynamics.A[0, t].T + action @ dynamics.B[0, t].T + dynamics.c[0, t] + noise
    moments = forward(dynamics, psi)
    found = expected_cost(cost, psi, moments).sum()
    assert abs(found - earned.mean()) < 3 * earned.std() / math.sqrt(samples)
    deviations = moments.covariance[0, 10].diagonal().sqrt()
    assert ((states.mean(0) - moments.mean[0, 10]).abs() < 3 * deviations / math.sqrt(samples)).all()
    # The standard error of a covariance of Gaussians: sqrt((S_ii S_jj + S_ij^2) / samples).
    S = moments.covariance[0, 10]
    error = ((deviations[:, None] * deviations).square() + S.square()).sqrt() / math.sqrt(samples)
    assert ((states.T.cov() - S).abs() < 3.5 * error).all()


@pytest.mark.parametrize("actions", [1, 3])
def test_the_divergence_is_torchs_integrated_over_the_states(actions):
    shape = {"groups": 20, "actions": actions}
    dynamics, _ = system(11, **shape)
    new, old = controller(12, **shape), controller(13, **shape)
    moments = forward(dynamics, new)
    found = kl(new, old, moments)
    # A divergence of linear-Gaussian controllers is quadratic in the state: its mean over these points is exact.
    root = math.sqrt(3) * torch.linalg.cholesky(moments.covariance[:, :-1])  # [groups, steps, states, points]
    points = moments.mean[:, :-1, None] + torch.cat([root.mT, -root.mT], dim=2)  # [groups, steps, 6 points, states]

    def at(psi):
        return MultivariateNormal(points @ psi.K.mT + psi.k[:, :, None], psi.G[:, :, None])

    assert torch.allclose(found, kl_divergence(at(new), at(old)).mean(2), rtol=1e-10)
    assert found.min() > 0
    alike = kl(new, new, moments)
    assert alike.min() >= 0  # though rounding makes some of these 120 negative
    assert alike.max() < 1e-12


def lagrangian(dynamics, cost, psi, previous, beta, ties):
    """What a control step minimises, in each group, and the moments."""
    moments = forward(dynamics, psi)
    mean = (psi.K @ moments.mean[:, :-1, :, None])[..., 0] + psi.k
    return (
        expected_cost(cost, psi, moments).sum(1)
        - (ties["dual"] * mean).sum((1, 2))
        + (ties["penalty"] * kl(psi, ties["policy"], moments)).sum(1)
        + beta * kl(psi, previous, moments).sum(1)
    )


def built(K, k, low, logs):
    """A controller with covariances L L', for L of the given lower part and logarithms of the diagonal."""
    L = low.tril(-1) + torch.diag_embed(logs.exp())
    return LinearGaussian(K, k, L @ L.mT)


@pytest.mark.parametrize("actions", [1, 2])
def test_the_controller_is_a_minimum_of_the_lagrangian(actions):
    shape = {"actions": actions}
    dynamics, cost = system(14, **shape)
    previous, ties, beta = controller(15, **shape), tied(16, **shape), 0.3
    found, _ = solve(dynamics, cost, previous=previous, multiplier=numbers(beta), **ties)
    L = torch.linalg.cholesky(found.G)
    parts = [found.K, found.k, L, L.diagonal(dim1=2, dim2=3).log()]
    leaves = [part.clone().requires_grad_() for part in parts]
    best = lagrangian(dynamics, cost, built(*leaves), previous, beta, ties).sum()
    gradient = torch.autograd.grad(best, leaves)
    assert math.sqrt(sum(part.square().sum() for part in gradient)) < 1e-6
    normal = draw(17)
    for size in (1e-3, 1e-1):
        for _ in range(10):
            moved = built(*(part + size * normal(*part.shape) for part in parts))
            rise = lagrangian(dynamics, cost, moved, previous, beta, ties).sum() - best
            assert rise > 1e-2 * size**2  # quadratic, not merely not negative


def test_groups_are_solved_as_one_batch_as_they_are_alone():
    dynamics, cost = system(18, groups=4)
    previous, ties = controller(19, groups=4), tied(20, groups=4)
    betas, budgets = numbers(1e-3, 0.1, 1.0, 100.0), numbers(6.0, 0.6, 0.06, 600.0)
    found, failed = solve(dynamics, cost, previous=previous, multiplier=betas, **ties)
    moments = forward(dynamics, found)
    searched = constrained(dynamics, cost, previous, budget=budgets, multiplier=betas, **ties)
    assert not failed.any()
    for group in range(4):
        models = of(dynamics, group), of(cost, group)
        one = {"policy": of(ties["policy"], group)}
        one |= {name: ties[name][group : group + 1] for name in ("penalty", "dual")}
        beta, pick = betas[group : group + 1], slice(group, group + 1)
        alone, _ = solve(*models, previous=of(previous, group), multiplier=beta, **one)
        assert close(of(found, group), alone, 1e-12)
        assert close(of(moments, group), forward(models[0], alone), 1e-12)
        budget = budgets[pick]
        single = constrained(*models, of(previous, group), budget=budget, multiplier=beta, **one)
        assert close(of(searched.controller, group), single.controller, 1e-9)
        assert searched.multiplier[group].item() == pytest.approx(single.multiplier.item(), rel=1e-9)
        assert (searched.outcomes[group], searched.solves[group]) == (single.outcomes[0], single.solves[0])
    assert len(set(searched.solves)) > 1  # so that some groups waited for others


@pytest.mark.parametrize("begin", [1e-8, 1.0, 1e10])
def test_an_active_bound_is_met_from_wherever_the_search_begins(begin):
    dynamics, cost = system(21, groups=3)
    previous = controller(22, groups=3)
    budgets = 6 * numbers(0.01, 0.1, 0.5)
    found = constrained(dynamics, cost, previous, budget=budgets, multiplier=torch.full((3,), begin, dtype=D))
    assert found.outcomes == ("active",) * 3
    moments = forward(dynamics, found.controller)
    totals = kl(found.controller, previous, moments).sum(1)
    assert torch.allclose(totals, found.divergence, rtol=1e-10)
    assert ((totals - budgets).abs() < 0.1 * budgets).all()
    assert found.failures == (0, 0, 0)
    assert max(found.solves) <= 50
    again, _ = solve(dynamics, cost, previous=previous, multiplier=found.multiplier)
    assert close(again, found.controller, 1e-12)
    before = expected_cost(cost, previous, forward(dynamics, previous)).sum(1)
    after = expected_cost(cost, found.controller, moments).sum(1)
    assert (after < before).all()


def test_a_bound_that_does_not_bind_is_accepted_at_the_smallest_multiplier():
    dynamics, cost = system(23)
    previous, ties = controller(24), tied(25)
    found = constrained(dynamics, cost, previous, budget=1e4, multiplier=numbers(1.0), **ties)
    assert found.outcomes == ("inactive",)
    assert found.multiplier.item() == LEAST
    assert found.divergence.item() < 1e4
    without, _ = solve(dynamics, cost, previous=previous, multiplier=numbers(0.0), **ties)
    assert close(found.controller, without, 1e-6)


def indefinite(seed, groups, worst, depth=-1.0):
    """A problem whose group `worst` has a concave cost."""
    dynamics, cost = system(seed, groups=groups, price=0.01)
    C = cost.C.clone()
    C[worst] = depth * torch.eye(3, dtype=D)
    return dynamics, QuadraticCost(C, cost.d, cost.e, cost.r), controller(seed + 1, groups=groups)


def test_only_the_group_without_a_minimum_fails():
    dynamics, cost, previous = indefinite(26, groups=3, worst=1)
    beta = torch.full((3,), 1e-3, dtype=D)
    found, failed = solve(dynamics, cost, previous=previous, multiplier=beta)
    assert failed.tolist() == [False, True, False]
    assert all(leaf[1].isnan().all() for leaf in vars(found).values())
    for group in (0, 2):
        alone, _ = solve(of(dynamics, group), of(cost, group), previous=of(previous, group), multiplier=beta[:1])
        assert close(of(found, group), alone, 1e-12)


def test_a_group_whose_numbers_are_no_good_fails():
    dynamics, cost = system(35, groups=3)
    previous, ones = controller(36, groups=3), torch.ones(3, dtype=D)
    for bad in (torch.inf, torch.nan):
        _, failed = solve(dynamics, spoilt(cost, "d", 1, bad), previous=previous, multiplier=ones)
        assert failed.tolist() == [False, True, False]
    singular = LinearGaussian(previous.K, previous.k, previous.G * numbers(1.0, 1.0, -1.0)[:, None, None, None])
    _, failed = solve(dynamics, cost, previous=singular, multiplier=ones)
    assert failed.tolist() == [False, False, True]


@pytest.mark.parametrize(("rest", "fails"), [(1e-10, False), (1e-14, True)])
def test_what_cancels_down_to_rounding_does_not_count_as_positive(rest, fails):
    one = torch.ones(1, 1, 1, 1, dtype=D)
    dynamics = Dynamics(one, one, one[..., 0], one, one[0, :, 0], one[0])
    C, flat = -one.expand(1, 2, 1, 1), torch.zeros(1, 2, 1, dtype=D)
    cost = QuadraticCost(C, flat, flat[..., 0], numbers(0.0))  # Q_aa = beta / G_old - 1
    _, failed = solve(dynamics, cost, previous=LinearGaussian(one, one[..., 0], one), multiplier=numbers(1 + rest))
    assert failed.tolist() == [fails]


@pytest.mark.parametrize("begin", [1e-3, 1e6])
def test_a_concave_cost_raises_the_multiplier_and_ends_with_a_valid_controller(begin):
    dynamics, cost, previous = indefinite(26, groups=3, worst=1)
    start = torch.full((3,), begin, dtype=D)
    found = constrained(dynamics, cost, previous, budget=3.0, multiplier=start)
    assert found.outcomes == ("active",) * 3
    assert found.failures[0] == found.failures[2] == 0
    assert found.failures[1] > 0  # on the way up, or on the way down to the bound
    assert (torch.linalg.eigvalsh(found.controller.G) > 0).all()
    moments = forward(dynamics, found.controller)
    totals = kl(found.controller, previous, moments).sum(1)
    assert ((totals - 3.0).abs() < 0.3).all()
    before = expected_cost(cost, previous, forward(dynamics, previous)).sum(1)
    assert (expected_cost(cost, found.controller, moments).sum(1) < before).all()


def test_a_failure_below_a_feasible_multiplier_only_lifts_the_bracket():
    feasible = Standing(1.0).after(0.1, 10.0)
    assert (feasible.multiplier, feasible.high, feasible.keeps) == (0.1, 1.0, True)
    lifted = feasible.after(math.nan, 10.0)
    assert (lifted.low, lifted.high, lifted.failures, lifted.keeps) == (0.1, 1.0, 1, False)
    assert lifted.multiplier == pytest.approx(math.sqrt(0.1))
    assert lifted.after(0.1, 10.0).multiplier == pytest.approx(10**-0.75)  # between 0.1 and sqrt(0.1)
    assert Standing(1e-8).after(math.nan, 10.0).multiplier == pytest.approx(1e-4, rel=1e-3)  # not 1e-7
    assert Standing(1e-8).after(20.0, 10.0).multiplier == pytest.approx(1e-7)


def test_a_search_cut_short_takes_the_smallest_multiplier_within_the_bound():
    dynamics, cost = system(27)
    previous = controller(28)
    found = constrained(dynamics, cost, previous, budget=3.0, multiplier=numbers(1e6), trials=3)
    assert (found.outcomes, found.solves) == (("unfinished",), (3,))
    assert found.multiplier.item() == pytest.approx(1e4)  # of 1e6, 1e5 and 1e4
    assert 0 < found.divergence.item() < 3.0
    with pytest.raises(DivergedError, match=r"leads to a divergence of .* where 1e-06 is allowed; raise the budget"):
        constrained(dynamics, cost, previous, budget=1e-6, multiplier=numbers(1e-3), trials=3)


def test_a_hopeless_group_is_named_with_its_remedy():
    dynamics, cost, previous = indefinite(29, groups=2, worst=1, depth=-1e30)
    with pytest.raises(DivergedError, match=r"group 1 after \d+ solves, \d+ of which failed.*scale the cost"):
        constrained(dynamics, cost, previous, budget=3.0, multiplier=numbers(1.0, 1.0))


def spoilt(model, name, group, value=torch.nan):
    leaf = getattr(model, name).clone()
    leaf[group, ..., 0] = value
    return type(model)(**{**vars(model), name: leaf})


def test_what_is_not_finite_or_out_of_range_is_named():
    dynamics, cost = system(30, groups=3)
    previous, ones = controller(31, groups=3), torch.ones(3, dtype=D)
    rest = {"budget": 3.0, "multiplier": ones}
    with pytest.raises(ArgumentError, match=r"cost.C is not finite in groups \[1\]; leave diverged"):
        constrained(dynamics, spoilt(cost, "C", 1), previous, **rest)
    with pytest.raises(ArgumentError, match=r"dynamics.A is not finite in groups \[2\]"):
        constrained(spoilt(dynamics, "A", 2, torch.inf), cost, previous, **rest)
    with pytest.raises(ArgumentError, match=r"previous.G is not positive definite"):
        constrained(dynamics, cost, spoilt(previous, "G", 0, 0.0), **rest)
    with pytest.raises(ArgumentError, match=r"previous.K is torch.float32; the passes need float64"):
        constrained(dynamics, cost, LinearGaussian(previous.K.float(), previous.k, previous.G), **rest)
    penalty = torch.ones(3, 6, dtype=D)
    with pytest.raises(ArgumentError, match=r"penalty is not finite in groups \[0, 1, 2\]"):
        constrained(dynamics, cost, previous, policy=previous, penalty=penalty / 0, **rest)
    with pytest.raises(ArgumentError, match=r"smallest penalty is -1.0"):
        constrained(dynamics, cost, previous, policy=previous, penalty=-penalty, **rest)
    with pytest.raises(ArgumentError, match=r"budget of group 1 is 0.0"):
        constrained(dynamics, cost, previous, budget=numbers(1.0, 0.0, 1.0), multiplier=ones)
    with pytest.raises(ArgumentError, match=r"multiplier of group 2 is nan; begin with one from 1e-08"):
        constrained(dynamics, cost, previous, budget=1.0, multiplier=numbers(1.0, 1.0, math.nan))
    with pytest.raises(ArgumentError, match=r"trials is 0"):
        constrained(dynamics, cost, previous, trials=0, **rest)
    with pytest.raises(ArgumentError, match="a policy without a penalty; pass both"):
        constrained(dynamics, cost, previous, policy=previous, **rest)
    with pytest.raises(ArgumentError, match="a penalty without a policy; pass both"):
        solve(dynamics, cost, previous=previous, multiplier=ones, penalty=penalty)


def test_mirror_descent_is_the_same_step_from_the_policy():
    dynamics, cost = system(32)
    policy = controller(33)
    found = constrained(dynamics, cost, policy, budget=1.2, multiplier=numbers(1.0))
    assert found.outcomes == ("active",)
    # Penalised by its divergence from the policy, with the multiplier as the weight and nothing else.
    penalty = found.multiplier[:, None].expand(1, 6)
    elsewhere, _ = solve(
        dynamics, cost, previous=controller(34), multiplier=numbers(0.0), policy=policy, penalty=penalty
    )
    assert close(found.controller, elsewhere, 1e-10)
    assert kl(found.controller, policy, forward(dynamics, found.controller)).sum().item() == pytest.approx(1.2, rel=0.1)


def test_one_thread_is_lent_and_given_back():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    seen = []

    @one_thread()
    def failing():
        seen.append(torch.get_num_threads())
        raise KeyError

    try:
        for _ in range(2):
            with pytest.raises(KeyError):
                failing()
            assert torch.get_num_threads() == 2
        assert seen == [1, 1]
        moments = Moments(torch.zeros(1, 7, 3, dtype=D), torch.eye(3, dtype=D).expand(1, 7, 3, 3))
        kl(controller(0), controller(1), moments)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
