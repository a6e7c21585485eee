"""What guided policy search fits and solves for in each coordinate group: linear-Gaussian controllers and dynamics.

Every (trajectory, coordinate of the group) is one sample of one small system with state s `[states]` and action a
`[actions]`; a group's models are shared by its coordinates. All tensors are float64 and carry a leading axis of groups.
An expectation is a mean over samples, never a sum, so that groups of any size have comparable units.

Source: Li and Malik 2017, section 3.4 ("convolutional GPS").
"""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class LinearGaussian:
    """A time-varying linear-Gaussian controller: a_t ~ N(K_t s_t + k_t, G_t). psi in the paper.

    Args:
        K: gains, `[groups, steps, actions, states]`.
        k: offsets, `[groups, steps, actions]`.
        G: covariances, `[groups, steps, actions, actions]`, positive definite.
    """

    K: Tensor
    k: Tensor
    G: Tensor

    @property
    def steps(self) -> int:
        return self.k.shape[1]


@dataclass(frozen=True)
class Dynamics:
    """Time-varying linear-Gaussian dynamics, s_{t+1} ~ N(A_t s_t + B_t a_t + c_t, F_t), and where they start.

    Args:
        A: `[groups, steps, states, states]`.
        B: `[groups, steps, states, actions]`.
        c: `[groups, steps, states]`.
        F: `[groups, steps, states, states]`.
        mean: of s_0, `[groups, states]`.
        covariance: of s_0, `[groups, states, states]`.
    """

    A: Tensor
    B: Tensor
    c: Tensor
    F: Tensor
    mean: Tensor
    covariance: Tensor


@dataclass(frozen=True)
class QuadraticCost:
    """c_t(s, a) = s' C_t s / 2 + d_t' s + e_t + r |a|^2 / 2; the last step has no action.

    Args:
        C: `[groups, steps + 1, states, states]`, symmetric.
        d: `[groups, steps + 1, states]`.
        e: `[groups, steps + 1]`.
        r: price of actions, `[groups]`, not negative.
    """

    C: Tensor
    d: Tensor
    e: Tensor
    r: Tensor
