"""Meta-train an optimizer on your own problem: any `nn.Module`, any loss, any tensors."""

import torch
from torch import nn

import l2o

torch.set_num_threads(1)
inputs = torch.linspace(-3, 3, 256)[:, None]
targets = torch.sin(2 * inputs) + 0.3 * inputs


def model() -> nn.Module:
    return nn.Sequential(nn.Linear(1, 16), nn.Tanh(), nn.Linear(16, 1))


family = l2o.ModuleTask(model, nn.functional.mse_loss, (inputs, targets), batch=64, name="sine")
plan = l2o.Plan(
    trajectories=40,
    tasks=4,
    horizon=l2o.ConstantHorizon(steps=60, window=20),
    meta_optimizer=l2o.MetaAdam(learning_rate=3e-3, final_learning_rate=3e-4),
    validate_every=10,
)
trained = l2o.metatrain(l2o.RNNprop.lv(), family, l2o.MetaLoss(), plan)
for validation in trained.validations:
    print(f"after {validation.trajectory:2d} trajectories: validation loss {validation.value:.4f}")
l2o.save(trained.optimizer, "sine-optimizer", trained.card)
print("saved sine-optimizer.safetensors and its card sine-optimizer.toml")
