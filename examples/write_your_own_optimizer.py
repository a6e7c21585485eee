"""Write your own learned optimizer: a class with `update`. Training, comparing, saving and the drop-in come with it."""

import torch
from torch import Tensor, nn

import l2o
from l2o.trees import Tree


class LearnedMomentum(l2o.Coordinatewise):
    """delta = -exp(a) (m + exp(b) g), with m a moving average of the gradient whose decay is learned too."""

    name = "learned momentum"

    def __init__(self, *, seed: int = 0) -> None:
        super().__init__()
        self.log_rate, self.log_mix, self.decay = (nn.Parameter(torch.tensor(x)) for x in (-5.0, 0.0, 1.0))

    def config(self) -> l2o.Config:
        return {}

    def init_coordinates(self, tasks: int, coordinates: int, like: Tensor) -> Tree:
        return {"m": torch.zeros(tasks, coordinates, device=like.device, dtype=like.dtype)}

    def update(self, grad: Tensor, state: Tree) -> tuple[Tensor, Tree]:
        decay = torch.sigmoid(self.decay)
        m = decay * state["m"] + (1 - decay) * grad
        return -self.log_rate.exp() * (m + self.log_mix.exp() * grad), {"m": m}


plan = l2o.Plan(trajectories=30, tasks=32, meta_optimizer=l2o.MetaAdam(0.03), validate_every=10)
trained = l2o.metatrain(LearnedMomentum(), l2o.Quadratics(5), l2o.MetaLoss(), plan)
print("validation loss", " -> ".join(f"{validation.value:.3g}" for validation in trained.validations))
rule = trained.optimizer
print({name: round(value.item(), 3) for name, value in rule.named_parameters()})
