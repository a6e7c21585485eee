"""Functions of our own in place of slow ones of PyTorch."""

import pytest
import torch

from l2o.nn import asinh


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 4e-7), (torch.float64, 1e-15)])
def test_asinh_and_its_slope_are_those_of_pytorch(dtype: torch.dtype, tolerance: float) -> None:
    sizes = torch.cat([torch.tensor([0.0]), torch.logspace(-37, 37, 2_000)]).to(dtype)
    x = torch.cat([sizes, -sizes]).requires_grad_()
    slope = torch.autograd.grad(asinh(x).sum(), x)[0]
    exact = x.detach().double().requires_grad_()
    torch.testing.assert_close(asinh(x).double(), exact.asinh(), rtol=tolerance, atol=0.0)
    # Above 1e19 float32 has no x^2, and PyTorch's slope there is 0: the exact one is that of float64.
    torch.testing.assert_close(
        slope.double(), torch.autograd.grad(exact.asinh().sum(), exact)[0], rtol=4 * tolerance, atol=0.0
    )


def test_asinh_keeps_what_is_not_finite() -> None:
    assert asinh(torch.tensor(float("nan"))).isnan()
