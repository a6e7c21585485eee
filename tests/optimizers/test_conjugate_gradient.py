"""Our conjugate gradient against a textbook's on quadratics, SciPy's on others, and its own rules."""

import math

import numpy as np
import pytest
import scipy.optimize
import torch
from torch import Tensor, nn

from l2o.errors import ArgumentError, MissingLossError, UnsupportedError
from l2o.optimizers.conjugate_gradient import TRIALS, ConjugateGradient
from l2o.rng import Stream


class Problem:
    """A function of two tensors of together `size` coordinates, and a closure that counts its calls."""

    def __init__(self, function, start: Tensor) -> None:
        self.function = function
        self.params = [nn.Parameter(part.clone()) for part in (start[:2], start[2:])]
        self.calls = {True: 0, False: 0}  # by whether gradients were enabled

    @property
    def point(self) -> Tensor:
        return torch.cat([p.detach() for p in self.params])

    def closure(self) -> Tensor:
        self.calls[torch.is_grad_enabled()] += 1
        for p in self.params:
            p.grad = None
        loss = self.function(torch.cat(list(self.params)))
        if loss.requires_grad:
            loss.backward()
        return loss


def quadratic(size: int, seed: int = 0):
    """x' A x / 2 - b' x with eigenvalues of A from 0.1 to 10; and where it is lowest."""
    rng = Stream(seed, ("quadratic",))
    basis = torch.linalg.qr(rng.child("basis").normal((size, size))[0]).Q
    matrix = basis * torch.logspace(-1, 1, size, dtype=torch.float64) @ basis.T
    target = rng.child("target").normal((size,))[0]
    return lambda x: x @ matrix @ x / 2 - target @ x, torch.linalg.solve(matrix, target)


def rosenbrock(x: Tensor) -> Tensor:
    return (100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum()


def ones(size: int) -> Tensor:
    return torch.ones(size, dtype=torch.float64)


@pytest.mark.parametrize("size", [5, 10, 30])
def test_a_quadratics_optimum_is_reached_in_hardly_more_steps_than_coordinates(size: int) -> None:
    """Steps are within 0.1 % of the minimum along their direction, so that conjugacy is not exact: 3e-6 at size 30."""
    function, optimum = quadratic(size)
    problem = Problem(function, ones(size))
    optimizer = ConjugateGradient(problem.params, lr=100.0, line_search="armijo")
    for _ in range(size + 5):
        optimizer.step(problem.closure)
    torch.testing.assert_close(problem.point, optimum, rtol=0, atol=1e-5)


@pytest.mark.parametrize("size", [5, 10])
def test_the_minimum_is_scipys(size: int) -> None:
    function, _ = quadratic(size)
    problem = Problem(function, ones(size))
    optimizer = ConjugateGradient(problem.params, lr=100.0, line_search="armijo")
    for _ in range(size + 5):
        optimizer.step(problem.closure)
    theirs = scipy.optimize.minimize(
        lambda x: float(function(torch.from_numpy(x))), np.ones(size), method="CG", tol=1e-9
    )
    assert float(function(problem.point)) == pytest.approx(theirs.fun, abs=1e-9)


def test_the_minimum_of_rosenbrocks_function_is_scipys() -> None:
    start = torch.tensor([-1.2, 1.0, -0.5, 0.8], dtype=torch.float64)
    problem = Problem(rosenbrock, start)
    optimizer = ConjugateGradient(problem.params, lr=1.0, line_search="armijo")
    for _ in range(300):
        optimizer.step(problem.closure)
    theirs = scipy.optimize.minimize(lambda x: float(rosenbrock(torch.from_numpy(x))), start.numpy(), method="CG")
    np.testing.assert_allclose(problem.point.numpy(), theirs.x, atol=1e-4)


@pytest.mark.parametrize("restart", [50, 3])
def test_fixed_steps_follow_the_formula(restart: int) -> None:
    """Polak-Ribiere+ written out with autograd, 12 steps; 3 restarts happen with restart=3 alone."""
    start = torch.tensor([-1.2, 1.0, -0.5, 0.8], dtype=torch.float64)
    problem = Problem(rosenbrock, start)
    optimizer = ConjugateGradient(problem.params, lr=1e-4, restart=restart)
    x, before, direction = start.clone(), None, None
    for step in range(12):
        grad = torch.func.grad(rosenbrock)(x)
        if before is None or step % restart == 0:
            direction = -grad
        else:
            direction = -grad + max(0.0, float(grad @ (grad - before) / (before @ before))) * direction
        assert grad @ direction < 0
        x, before = x + 1e-4 * direction, grad
        optimizer.step(problem.closure)
        torch.testing.assert_close(problem.point, x, rtol=1e-12, atol=0)
    assert problem.calls == {True: 12, False: 0}


def test_a_direction_that_would_go_up_begins_anew() -> None:
    """Gradients of minibatches that have nothing to do with each other."""
    slopes = iter(torch.tensor([[0.1, 0.1], [1.0, -0.9], [-1.0, 0.0]], dtype=torch.float64))
    x = nn.Parameter(torch.zeros(2, dtype=torch.float64))
    optimizer = ConjugateGradient([x], lr=1.0)

    def closure() -> Tensor:
        x.grad = next(slopes)
        return torch.zeros(())

    optimizer.step(closure)
    after = x.detach().clone()
    optimizer.step(closure)
    # beta = (1.81 - 0.01) / 0.02 = 90: d = (-1, 0.9) + 90 (-0.1, -0.1) = (-10, -8.1), and < d, g > = -2.71: goes down.
    torch.testing.assert_close(x.detach() - after, torch.tensor([-10.0, -8.1], dtype=torch.float64))
    after = x.detach().clone()
    optimizer.step(closure)
    # beta = (1 + 1) / 1.81: d = (1, 0) + 1.1 (-10, -8.1), and < d, g > = 10: goes up.
    torch.testing.assert_close(x.detach() - after, torch.tensor([1.0, 0.0], dtype=torch.float64))


def test_line_search_never_goes_up_nor_beyond_lr_and_counts_its_trials() -> None:
    problem = Problem(rosenbrock, torch.tensor([-1.2, 1.0, -0.5, 0.8], dtype=torch.float64))
    optimizer = ConjugateGradient(problem.params, lr=0.01, line_search="armijo")
    for step in range(40):
        loss, point = float(rosenbrock(problem.point)), problem.point
        trials = problem.calls[False]
        found = optimizer.step(problem.closure)
        assert found.item() == pytest.approx(loss)
        assert float(rosenbrock(problem.point)) < loss
        assert 1 <= problem.calls[False] - trials <= TRIALS
        direction = optimizer.state[problem.params[0]]["direction"]
        assert float((problem.point - point).norm() / direction.norm()) <= 0.01 * (1 + 1e-9)
        assert problem.calls[True] == step + 1


def test_parameters_stay_where_no_trial_is_accepted() -> None:
    """A gradient that points the wrong way: every trial is higher."""
    x = nn.Parameter(torch.tensor([1.0, 2.0]))
    optimizer = ConjugateGradient([x], lr=1.0, line_search="armijo")
    trials: list[float] = []

    def closure() -> Tensor:
        if torch.is_grad_enabled():
            x.grad = torch.tensor([-1.0, 0.0])
        trials.append(float(x[0].detach()) - 1)
        return x.detach()[0]

    optimizer.step(closure)
    assert x.tolist() == [1.0, 2.0]
    assert len(trials) == 1 + TRIALS
    assert not optimizer.state[x]


@pytest.mark.parametrize("worst", [math.inf, math.nan])
def test_trials_beyond_a_functions_domain_are_shortened(worst: float) -> None:
    x = nn.Parameter(torch.tensor([1.0], dtype=torch.float64))

    def closure() -> Tensor:
        x.grad = None
        loss = (x - x.log()).sum() if x > 0.2 else torch.tensor(worst)  # lowest at 1, undefined below 0
        if loss.requires_grad:
            loss.backward()
        return loss

    with torch.no_grad():
        x.fill_(4.0)
    optimizer = ConjugateGradient([x], lr=1e3, line_search="armijo")
    for _ in range(20):
        optimizer.step(closure)
    assert x.item() == pytest.approx(1, abs=1e-4)


def test_a_saved_state_goes_on_as_if_nothing_had_happened() -> None:
    start = torch.tensor([-1.2, 1.0, -0.5, 0.8], dtype=torch.float64)
    whole, first = Problem(rosenbrock, start), Problem(rosenbrock, start)
    optimizer = ConjugateGradient(whole.params, lr=1e-3, line_search="armijo")
    for _ in range(8):
        optimizer.step(whole.closure)
    begun = ConjugateGradient(first.params, lr=1e-3, line_search="armijo")
    for _ in range(4):
        begun.step(first.closure)
    second = Problem(rosenbrock, first.point)
    resumed = ConjugateGradient(second.params, lr=1.0)
    resumed.load_state_dict(begun.state_dict())
    for _ in range(4):
        resumed.step(second.closure)
    assert torch.equal(second.point, whole.point)


def test_meaningless_arguments_are_refused() -> None:
    x = nn.Parameter(torch.zeros(2))
    for arguments, message in (
        ({"lr": 0.0}, "lr is 0.0"),
        ({"lr": math.nan}, "lr is nan"),
        ({"lr": 1.0, "line_search": "wolfe"}, "line_search is 'wolfe'"),
        ({"lr": 1.0, "restart": 0}, "restart is 0"),
    ):
        with pytest.raises(ArgumentError, match=message):
            ConjugateGradient([x], **arguments)
    with pytest.raises(UnsupportedError, match="2 parameter groups"):
        ConjugateGradient([{"params": [x]}, {"params": [nn.Parameter(torch.zeros(1))]}], lr=1.0)
    with pytest.raises(MissingLossError, match="pass one"):
        ConjugateGradient([x], lr=1.0).step()
