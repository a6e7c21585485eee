"""Test functions against published values, SciPy, and the calculus of Ackley's cusp."""

import math

import pytest
import torch
from scipy.optimize import rosen, rosen_der

from l2o.errors import ArgumentError
from l2o.rng import Stream
from l2o.tasks.functions import BenchmarkFunction

FUNCTIONS = {
    "ackley": (BenchmarkFunction.ackley(), (-32.768, 32.768), (-32.768, 32.768)),
    "beale": (BenchmarkFunction.beale(), (-4.5, 4.5), (-4.5, 4.5)),
    "booth": (BenchmarkFunction.booth(), (-10, 10), (-10, 10)),
    "branin": (BenchmarkFunction.branin(), (-5, 10), (0, 15)),
    "log-sum-exp": (BenchmarkFunction.log_sum_exp(), (-2, 2), (-2, 2)),
    "matyas": (BenchmarkFunction.matyas(), (-10, 10), (-10, 10)),
    "rastrigin": (BenchmarkFunction.rastrigin(), (-5.12, 5.12), (-5.12, 5.12)),
    "rosenbrock": (BenchmarkFunction.rosenbrock(), (-5, 10), (-5, 10)),
    "styblinski-tang": (BenchmarkFunction.styblinski_tang(), (-5, 5), (-5, 5)),
}
IN_MANY_DIMENSIONS = [
    BenchmarkFunction.ackley,
    BenchmarkFunction.rastrigin,
    BenchmarkFunction.rosenbrock,
    BenchmarkFunction.styblinski_tang,
]


def value(family: BenchmarkFunction, *x: float) -> float:
    return float(family.loss({"x": torch.tensor(x, dtype=torch.float64)}, {}, {}))


def gradient(family: BenchmarkFunction, x: torch.Tensor) -> torch.Tensor:
    return family.value_and_grad({"x": x}, {}, {})[1]["x"]


@pytest.mark.parametrize(
    ("family", "point", "expected"),
    [
        (BenchmarkFunction.ackley(), (1, 1), 3.6253849384403627),
        (BenchmarkFunction.ackley(1), (-1,), 3.6253849384403627),
        (BenchmarkFunction.beale(), (0, 0), 14.203125),
        (BenchmarkFunction.beale(), (1, 2), 2.5**2 + 5.25**2 + 9.625**2),
        (BenchmarkFunction.booth(), (0, 0), 74),
        (BenchmarkFunction.booth(), (2, -1), 7**2 + 2**2),
        (BenchmarkFunction.branin(), (0, 0), 55.602112642270262),
        (BenchmarkFunction.branin(), (-math.pi, 12.275), 0.39788735772973816),
        (BenchmarkFunction.branin(), (3 * math.pi, 2.475), 0.39788735772973816),
        (BenchmarkFunction.log_sum_exp(), (0, 0), math.log(3) - 0.1),
        (BenchmarkFunction.log_sum_exp(), (1, -1), math.log(math.exp(-2) + math.exp(4) + math.exp(-1)) - 0.1),
        (BenchmarkFunction.matyas(), (1, 1), 0.04),
        (BenchmarkFunction.matyas(), (1, -2), 2.26),
        (BenchmarkFunction.rastrigin(), (1, 1), 2),
        (BenchmarkFunction.rastrigin(3), (0.5, 0, -0.5), 40.5),
        (BenchmarkFunction.rosenbrock(), (-1.2, 1), 24.2),
        (BenchmarkFunction.rosenbrock(3), (2, 1, 0), 1001),
        (BenchmarkFunction.styblinski_tang(), (1, 1), -10),
        (BenchmarkFunction.styblinski_tang(3), (1, -1, 2), -5 - 10 - 19),
    ],
    ids=lambda value: value.name if isinstance(value, BenchmarkFunction) else str(value),
)
def test_value_is_the_published_one(family, point, expected) -> None:
    assert value(family, *point) == pytest.approx(expected, rel=1e-13)


@pytest.mark.parametrize("dimensions", [2, 3, 10])
def test_rosenbrock_equals_scipy(dimensions: int) -> None:
    family = BenchmarkFunction.rosenbrock(dimensions)
    starts = family.init({}, Stream(0, tasks=range(5)))["x"]
    for x, grad in zip(starts, gradient(family, starts), strict=True):
        assert value(family, *x.tolist()) == pytest.approx(rosen(x.numpy()), rel=1e-13)
        torch.testing.assert_close(grad, torch.from_numpy(rosen_der(x.numpy())), rtol=1e-12, atol=1e-9)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_loss_at_the_minimiser_is_the_stated_minimum(name: str) -> None:
    """Up to the rounding of terms of size 100."""
    family = FUNCTIONS[name][0]
    assert value(family, *family.minimiser) == pytest.approx(family.minimum, abs=1e-14, rel=1e-14)


@pytest.mark.parametrize("make", IN_MANY_DIMENSIONS)
def test_minimum_holds_in_any_number_of_dimensions(make) -> None:
    for dimensions in (2, 3, 10, 50):
        family = make(dimensions)
        assert family.name.endswith(f"-{dimensions}d")
        assert family.dimensions == len(family.minimiser) == dimensions
        assert value(family, *family.minimiser) == pytest.approx(family.minimum, abs=1e-13, rel=1e-13)
        at_minimum = gradient(family, torch.tensor([family.minimiser], dtype=torch.float64))
        assert at_minimum.abs().max() <= 1e-12


def test_styblinski_tang_minimum_is_the_mean_in_every_dimension() -> None:
    assert BenchmarkFunction.styblinski_tang(7).minimum == pytest.approx(7 * -39.16616570377142, rel=1e-15)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("dimensions", [1, 2, 7])
def test_ackley_gradient_is_zero_at_the_cusp(dtype: torch.dtype, dimensions: int) -> None:
    x = torch.zeros(3, dimensions, dtype=dtype)
    losses, grads = BenchmarkFunction.ackley(dimensions).value_and_grad({"x": x}, {}, {})
    torch.testing.assert_close(losses, torch.zeros(3, dtype=dtype), rtol=0, atol=1e-6)
    assert torch.equal(grads["x"], torch.zeros_like(x))


def test_ackley_second_derivatives_are_finite_at_the_cusp() -> None:
    x = torch.zeros(1, 2, dtype=torch.float64, requires_grad=True)
    loss = BenchmarkFunction.ackley().losses({"x": x}, {}, {}).sum()
    (slope,) = torch.autograd.grad(loss, x, create_graph=True)
    (curvature,) = torch.autograd.grad(slope.sum(), x)
    assert torch.isfinite(curvature).all()


@pytest.mark.parametrize("size", [1e-100, 1e-8, 1e-3, 1.0, 30.0])
def test_ackley_gradient_away_from_the_cusp_is_its_derivative(size: float) -> None:
    """d/dx_i = (4 x_i / r) exp(-0.2 r) / n + 2 pi sin(2 pi x_i) exp(mean cos) / n, with r the root mean square."""
    x = size * Stream(0, tasks=range(6)).normal((3,))
    root = x.square().mean(1, keepdim=True).sqrt()
    bowl = 4 * x / root * torch.exp(-0.2 * root) / 3
    waves = 2 * math.pi * torch.sin(2 * math.pi * x) * torch.cos(2 * math.pi * x).mean(1, keepdim=True).exp() / 3
    torch.testing.assert_close(gradient(BenchmarkFunction.ackley(3), x), bowl + waves, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_starts_fill_their_box(name: str) -> None:
    """2,000 starts: on each axis the least and the greatest lie within 1% of the box of its ends."""
    family, *box = FUNCTIONS[name]
    starts = family.init({}, Stream(0, tasks=range(2000)))["x"]
    assert starts.shape == (2000, 2)
    for axis, (low, high) in enumerate(box):
        margin = 0.01 * (high - low)
        assert low <= starts[:, axis].min() < low + margin
        assert high - margin < starts[:, axis].max() < high
        assert float(starts[:, axis].mean()) == pytest.approx((low + high) / 2, abs=0.04 * (high - low))


def test_a_user_can_bring_a_function() -> None:
    family = BenchmarkFunction(
        "line", lambda x: (x - 2).abs().sum(), low=[0.0], high=[1.0], minimiser=[2.0], minimum=0.0
    )
    assert family.name == "line-1d"
    assert torch.equal(gradient(family, torch.tensor([[0.5], [3.0]])), torch.tensor([[-1.0], [1.0]]))
    assert family.optimum(family.sample(Stream(0, tasks=range(2))))["x"].tolist() == [[2.0], [2.0]]


@pytest.mark.parametrize("make", IN_MANY_DIMENSIONS)
def test_too_few_dimensions_are_refused(make) -> None:
    with pytest.raises(ArgumentError, match="dimensions is 0"):
        make(0)


def test_rosenbrock_in_one_dimension_is_refused() -> None:
    with pytest.raises(ArgumentError, match="at least 2"):
        BenchmarkFunction.rosenbrock(1)


@pytest.mark.parametrize(
    ("low", "high", "minimiser", "message"),
    [
        ([0.0], [1.0, 1.0], [0.0], "1, 2 and 1 numbers"),
        ([], [], [], "0, 0 and 0 numbers"),
        ([0.0, 1.0], [1.0, 1.0], [0.0, 0.0], "below"),
        ([math.nan], [1.0], [0.0], "below"),
    ],
)
def test_a_box_that_is_none_is_refused(low, high, minimiser, message) -> None:
    with pytest.raises(ArgumentError, match=message):
        BenchmarkFunction("mine", torch.sum, low=low, high=high, minimiser=minimiser, minimum=0.0)


def test_a_raised_function_has_the_same_gradients_and_a_higher_minimum() -> None:
    plain, raised = BenchmarkFunction.styblinski_tang(), BenchmarkFunction.styblinski_tang().raised(80.0)
    starts = plain.init({}, Stream(0, tasks=range(5)))["x"]
    assert torch.equal(gradient(plain, starts), gradient(raised, starts))
    assert torch.equal(raised.init({}, Stream(0, tasks=range(5)))["x"], starts)
    assert value(raised, 1.0, 1.0) == 70
    assert raised.minimum == pytest.approx(value(raised, *raised.minimiser), rel=1e-14)
    assert raised.minimum > 0
    with pytest.raises(ArgumentError, match="by is inf"):
        plain.raised(math.inf)
