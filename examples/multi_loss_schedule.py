"""A model with several losses: a schedule learned on a small problem decides, in your own loop, which is next."""

import torch
from sklearn.datasets import load_diabetes
from torch import nn

import l2o

STEPS = 600
torch.manual_seed(0)
torch.set_num_threads(1)  # tensors are small: one thread is as fast as several

# 1. Train a controller on many runs of a small problem of the same kind: an error "mse" and a penalty "l1".
pairs = [("mse", "model"), ("l1", "model")]
features = l2o.RobustFeatures(pairs, ["mse", "l1"], "validation")
settings = l2o.Settings({"model": l2o.Adam(0.01)}, common=True)
plan = l2o.Plan(
    trajectories=10,
    tasks=8,
    horizon=l2o.ConstantHorizon(STEPS, STEPS),
    meta_optimizer=l2o.MetaAdam(0.05),
    validate_every=5,
    validation_tasks=4,
)
family = l2o.QuadraticRegression(penalty=0.4)
trained = l2o.train_schedule(l2o.Controller(features, 2), family, settings, l2o.PolicyGradient(), plan)
l2o.save(trained.schedule, "controller", trained.card)

# 2. Follow it in a loop of your own: another problem, another model, the names that it was trained with.
inputs, targets = (torch.tensor(part, dtype=torch.float32) for part in load_diabetes(return_X_y=True))
inputs, targets = inputs / inputs.std(0), (targets[:, None] - targets.mean()) / targets.std()
train, validation = slice(0, 300), slice(300, None)
model = nn.Sequential(nn.Linear(10, 32), nn.Tanh(), nn.Linear(32, 1))
optimizer = torch.optim.Adam(model.parameters(), 0.01)
losses = {
    "mse": lambda part=train: nn.functional.mse_loss(model(inputs[part]), targets[part]),
    "l1": lambda: 0.01 * sum(p.abs().sum() for p in model.parameters()),
}
follow = l2o.follow(
    l2o.load_schedule("controller.safetensors"), choices=list(losses), groups={"model": model.parameters()}, steps=STEPS
)
follow.measure({name: loss() for name, loss in losses.items()})
for step in range(STEPS):
    if step % 10 == 0:
        follow.validated({"validation": losses["mse"](validation)})
    choice = follow.choose()
    optimizer.zero_grad()
    loss = losses[choice]()
    loss.backward()
    follow.took({choice: loss})
    optimizer.step()
print(f"validation error {losses['mse'](validation).item():.3f}")

# 3. Keep what it did as a fixed schedule that reads nothing but the time.
rates = l2o.distill(follow.decisions, 2, parts=3)
l2o.save(rates, "rates")
print("share of the penalty's steps in each third:", ", ".join(f"{row[1]:.0%}" for row in rates.rates))
