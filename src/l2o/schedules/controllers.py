"""Controllers: schedules that learn."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from l2o.agent import Action
from l2o.errors import ArgumentError
from l2o.nn import Linear
from l2o.rng import Stream
from l2o.schedules.base import Schedule
from l2o.schedules.features import Features
from l2o.trees import Tree


class Controller(Schedule):
    """A network of features: log-probabilities = log-softmax(cap(logits) / temperature).

    Args:
        features: what it sees.
        choices: how many it decides among.
        hidden: units of each hidden layer; none for a linear controller.
        temperature: divides the logits; positive. The public code of AutoLoss calls its 2 "logit clipping".
        logit_cap: c in c tanh(logit / c), or None: no logit leaves (-c, c).
        slope: of the leaky ReLU below 0: 0 as the paper says, 0.2 as its code has it.
        bias: added to the logits at the start, one for each choice: what an untrained controller prefers.
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
        slope: float = 0.0,
        bias: Sequence[float] | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(choices)
        if not temperature > 0 or (logit_cap is not None and not logit_cap > 0):
            raise ArgumentError(f"temperature is {temperature} and logit_cap {logit_cap}; both must be positive")
        if bias is not None and len(bias) != choices:
            raise ArgumentError(f"bias has {len(bias)} numbers for {choices} choices; pass one for each")
        self.features = features
        self.temperature, self.logit_cap, self.slope = temperature, logit_cap, slope
        widths = [features.width, *hidden, choices]
        layers = [Linear(inputs, outputs) for inputs, outputs in pairwise(widths)]
        self.layers = nn.ModuleList(layers)
        draw = Stream(seed, ("meta-parameters", "Controller"))
        with torch.no_grad():
            for place, layer in enumerate(layers):
                bound = (6 / sum(layer.weight.shape)) ** 0.5
                layer.weight.copy_(draw.child(str(place)).uniform(layer.weight.shape, low=-bound, high=bound)[0])
                layer.bias.zero_()
            if bias is not None:
                layers[-1].bias.copy_(torch.tensor(list(bias)))

    def begin(self, tasks: int) -> Tree:
        return self.features.begin(tasks)

    def forward(self, observation: Tree, state: Tree) -> tuple[Action, Tree]:
        row, state = self.features(observation, state)
        return {"log_probability": self.log_probabilities(row.to(next(self.layers.parameters())))}, state

    def log_probabilities(self, features: Tensor) -> Tensor:
        """`[..., choices]` for features `[..., width]`."""
        for layer in self.layers[:-1]:
            features = torch.nn.functional.leaky_relu(layer(features), self.slope)
        logits = self.layers[-1](features)
        if self.logit_cap is not None:
            logits = self.logit_cap * torch.tanh(logits / self.logit_cap)
        return torch.log_softmax(logits / self.temperature, dim=-1)
