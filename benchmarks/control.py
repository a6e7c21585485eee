"""What a control step of guided policy search costs, as it is timed: LQG's passes over some coordinate groups."""

import math

import torch

from benchmarks.timing import Call
from l2o.methods.guided_policy.local_models import Dynamics, LinearGaussian, QuadraticCost
from l2o.methods.guided_policy.lqg import forward, solve
from l2o.rng import Stream

GROUPS = 4
"""Of a network with two layers: the weights and biases of each."""


def lqg(states: int, steps: int) -> Call:
    """The backward and the forward pass of one multiplier, for one action and random stable dynamics, in float64."""
    rng, size = Stream(0), (GROUPS, steps, states)
    A, B, C = (
        rng.child(name).normal(shape)[0].double()
        for name, shape in (("A", (*size, states)), ("B", (*size, 1)), ("C", (GROUPS, steps + 1, states, 1)))
    )
    unit = torch.eye(states, dtype=A.dtype)
    dynamics = Dynamics(
        A=0.5 / math.sqrt(states) * A,
        B=B,
        c=torch.zeros_like(A[..., 0]),
        F=1e-2 * unit.expand_as(A),
        mean=torch.ones_like(A[:, 0, :, 0]),
        covariance=unit.expand(GROUPS, -1, -1),
    )
    cost = QuadraticCost(
        C @ C.mT / states, torch.zeros_like(C[..., 0]), torch.zeros_like(C[..., 0, 0]), A.new_ones(GROUPS)
    )
    previous = LinearGaussian(torch.zeros_like(B.mT), torch.zeros_like(B[:, :, 0]), torch.ones_like(B[:, :, :1]))

    def run() -> None:
        controller, failed = solve(dynamics, cost, previous=previous, multiplier=A.new_ones(GROUPS))
        assert not failed.any()
        forward(dynamics, controller)

    return Call(run, "torch")
