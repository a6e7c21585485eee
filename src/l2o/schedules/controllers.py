"""Controllers: schedules that learn."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn

from l2o.agent import Action
from l2o.errors import ArgumentError
from l2o.nn import Linear
from l2o.rng import Stream
from l2o.schedules.base import Schedule
from l2o.schedules.features import FEATURES, Features
from l2o.trees import Tree

Decisions = Literal["categorical", "bernoulli", "independent"]
"""How logits become a distribution over choices: one logit each; one logit for two choices; or one for each pair of a
loss and a group, each taken or not by itself, where the choices are `every_subset` of the pairs."""


class Controller(Schedule):
    """A network of features: log-probabilities = log-softmax(cap(logits) / temperature).

    Args:
        features: what it sees.
        choices: how many it decides among.
        hidden: units of each hidden layer; none for a linear controller.
        temperature: divides the logits; positive. The public code of AutoLoss calls its 2 "logit clipping".
        logit_cap: c in c tanh(logit / c), or None: no logit leaves (-c, c).
        decisions: what the logits stand for.
        critic: units of each hidden layer of a second network, which estimates the value of a state, or None.
        slope: of the leaky ReLU below 0: 0 as the paper says, 0.2 as its code has it.
        bias: added to the logits at the start, one for each: what an untrained controller prefers.
        seed: of the initial meta-parameters.

    Example:
        >>> from l2o.schedules.features import MeasureFeatures
        >>> controller = Controller(MeasureFeatures(["progress", "loss/mse"]), 2, hidden=[16])
        >>> sum(p.numel() for p in controller.parameters())
        82

    Source: AutoLoss (Xu et al. 2019), section 5: one hidden layer of 16 units for regression and classification, none
    for GANs; weights by Xavier's uniform rule, biases 0.
    """

    name = "controller"

    def __init__(
        self,
        features: Features,
        choices: int,
        *,
        hidden: Sequence[int] = (),
        temperature: float = 1.0,
        logit_cap: float | None = None,
        decisions: Decisions = "categorical",
        critic: Sequence[int] | None = None,
        slope: float = 0.0,
        bias: Sequence[float] | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(choices)
        if not temperature > 0 or (logit_cap is not None and not logit_cap > 0):
            raise ArgumentError(f"temperature is {temperature} and logit_cap {logit_cap}; both must be positive")
        if decisions not in ("categorical", "bernoulli", "independent"):
            raise ArgumentError(f"decisions is {decisions!r}; choose 'categorical', 'bernoulli' or 'independent'")
        outputs = {"categorical": choices, "bernoulli": 1, "independent": choices.bit_length()}[decisions]
        if {"bernoulli": 2, "independent": 2**outputs - 1}.get(decisions, choices) != choices:
            raise ArgumentError(
                f"{choices} choices cannot be decided as {decisions!r}: 'bernoulli' takes 2, 'independent' every "
                "subset of its pairs but the empty one"
            )
        if bias is not None and len(bias) != outputs:
            raise ArgumentError(f"bias has {len(bias)} numbers for {outputs} logits; pass one for each")
        self.features, self.decisions = features, decisions
        self.temperature, self.logit_cap, self.slope = temperature, logit_cap, slope
        self.hidden, self.critic_hidden = tuple(hidden), None if critic is None else tuple(critic)
        draw = Stream(seed, ("meta-parameters", "Controller"))
        self.layers = _layers([features.width, *hidden, outputs], draw, bias)
        self.critic = None if critic is None else _layers([features.width, *critic, 1], draw.child("critic"))

    def config(self) -> dict[str, Any]:
        return {
            "features": {"kind": type(self.features).__name__, **self.features.config()},
            "choices": self.choices,
            "hidden": list(self.hidden),
            "temperature": self.temperature,
            "logit_cap": self.logit_cap,
            "decisions": self.decisions,
            "critic": None if self.critic_hidden is None else list(self.critic_hidden),
            "slope": self.slope,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], *, kinds: Mapping[str, type[Features]] = FEATURES) -> Self:
        """A controller of the configuration; `kinds` are the classes of features that it may name."""
        kind, settings = config["features"]["kind"], {k: v for k, v in config["features"].items() if k != "kind"}
        if kind not in kinds:
            raise ArgumentError(f"no features {kind!r}; known are {', '.join(kinds)}")
        return cls(**{"logit_cap": None, "critic": None, **config, "features": kinds[kind](**settings)})

    @property
    def measures(self) -> tuple[str, ...]:
        return self.features.measures

    def begin(self, tasks: int) -> Tree:
        return self.features.begin(tasks)

    def forward(self, observation: Tree, state: Tree) -> tuple[Action, Tree]:
        row, state = self.features(observation, state)
        row = row.to(next(self.layers.parameters()))
        return {"log_probability": self.log_probabilities(row), "features": row}, state

    def log_probabilities(self, features: Tensor) -> Tensor:
        """`[..., choices]` for features `[..., width]`."""
        logits = self._network(self.layers, features)
        if self.logit_cap is not None:
            logits = self.logit_cap * torch.tanh(logits / self.logit_cap)
        logits = logits / self.temperature
        if self.decisions == "bernoulli":
            logits = torch.cat([torch.zeros_like(logits), logits], dim=-1)
        if self.decisions == "independent":
            bits = torch.arange(logits.shape[-1])
            taken = (torch.arange(1, self.choices + 1)[:, None] >> bits & 1).to(logits)  # [choices, pairs]
            # A pair's probabilities to be taken or not are as exp(logit) to 1; no pair at all is left out.
            logits = logits @ taken.T
        return torch.log_softmax(logits, dim=-1)

    def values(self, features: Tensor) -> Tensor:
        """The critic's estimates `[...]` for features `[..., width]`."""
        if self.critic is None:
            raise ArgumentError("this controller has no critic; make it with critic=[32], for instance")
        return self._network(self.critic, features)[..., 0]

    def _network(self, layers: nn.ModuleList, features: Tensor) -> Tensor:
        rows = self.features.normalised(features).reshape(-1, self.features.width)
        for layer in list(layers)[:-1]:
            rows = torch.nn.functional.leaky_relu(layer(rows), self.slope)
        return layers[-1](rows).reshape(*features.shape[:-1], -1)


def _layers(widths: Sequence[int], draw: Stream, bias: Sequence[float] | None = None) -> nn.ModuleList:
    """Linear layers, weights drawn by Xavier's uniform rule; biases 0, but those of the last layer if given."""
    layers = [Linear(inputs, outputs) for inputs, outputs in pairwise(widths)]
    with torch.no_grad():
        for place, layer in enumerate(layers):
            bound = (6 / sum(layer.weight.shape)) ** 0.5
            layer.weight.copy_(draw.child(str(place)).uniform(layer.weight.shape, low=-bound, high=bound)[0])
            layer.bias.zero_()
        if bias is not None:
            layers[-1].bias.copy_(torch.tensor(list(bias)))
    return nn.ModuleList(layers)
