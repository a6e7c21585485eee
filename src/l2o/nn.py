"""Network parts that learned optimizers share."""

import math

import torch
from torch import Tensor, nn


def truncated_normal(shape: tuple[int, ...], deviation: float, generator: torch.Generator) -> Tensor:
    """Normal numbers of standard deviation `deviation` before the cut at two deviations."""
    drawn = torch.empty(shape)
    nn.init.trunc_normal_(drawn, 0.0, deviation, -2 * deviation, 2 * deviation, generator=generator)
    return drawn


def bias_correction(beta: float, step: Tensor) -> Tensor:
    """1 - beta^step, exact to the last digits also where beta^step is near 1. Any shape."""
    return -torch.expm1(step * (math.log(beta) if beta > 0 else -math.inf))


def asinh(x: Tensor) -> Tensor:
    """torch.asinh, which takes ten times as long on a CPU (torch 2.13): one number at a time."""
    size = x.abs()
    found = torch.log1p(size * (1 + size / (1 + torch.hypot(size, torch.ones_like(size)))))
    return torch.where(x == 0, x, torch.copysign(found, x))  # at 0 the size has no slope


class LSTMCell(nn.Module):
    """The LSTM cell of the published optimizers (Sonnet 1): one weight matrix, one bias, forget offset 1.

        (i, j, f, o) = split([x, h] W + b, 4)                 input, candidate, forget, output
        c' = sigmoid(f + 1) c + sigmoid(i) tanh(j)
        h' = tanh(c') sigmoid(o)

    `torch.nn.LSTM` differs: gate order (i, f, j, o), two biases, no offset.

    Args:
        inputs: width of x.
        hidden: width of h and c.
    """

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(inputs + hidden, 4 * hidden))
        self.bias = nn.Parameter(torch.zeros(4 * hidden))

    def forward(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        """One step for a batch: x `[batch, inputs]`, h and c `[batch, hidden]`; returns (h', c').

        The work is done with the batch as the last axis, so that each gate is one contiguous block: measured 1.4 times
        faster than gates as columns. The results are transposed views. Everything is made contiguous first, so that the
        numbers do not depend on the memory layout of the state (a state read from a checkpoint has another).
        """
        gates = torch.addmm(self.bias[:, None], self.weight.T, torch.cat([x.T, h.T]))  # [4 * hidden, batch]
        i, j, f, o = gates.chunk(4)
        c = torch.sigmoid(f + 1.0) * c.T.contiguous() + torch.sigmoid(i) * torch.tanh(j)
        h = torch.tanh(c) * torch.sigmoid(o)
        return h.T, c.T

    def reset(self, generator: torch.Generator) -> None:
        """Sonnet's initialisation: weight AND bias truncated normal, deviation 1 / sqrt(inputs + hidden)."""
        with torch.no_grad():
            deviation = 1.0 / math.sqrt(self.weight.shape[0])
            self.weight.copy_(truncated_normal(tuple(self.weight.shape), deviation, generator))
            self.bias.copy_(truncated_normal(tuple(self.bias.shape), deviation, generator))


class Linear(nn.Module):
    """y = x W + b, W `[inputs, outputs]`; initialised truncated normal 1 / sqrt(inputs), bias 0 (Sonnet 1)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(inputs, outputs))
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """x `[batch, inputs]` to `[batch, outputs]`; the result is a transposed view, as in `LSTMCell`."""
        return torch.addmm(self.bias[:, None], self.weight.T, x.T).T

    def reset(self, generator: torch.Generator) -> None:
        with torch.no_grad():
            deviation = 1.0 / math.sqrt(self.weight.shape[0])
            self.weight.copy_(truncated_normal(tuple(self.weight.shape), deviation, generator))
            self.bias.zero_()
