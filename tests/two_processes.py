"""What each of two processes does in the test of distributed training: a module of its own, which they import fast."""

from pathlib import Path

import torch
from torch import nn

from l2o.rng import Stream
from l2o.schedules.controllers import Controller
from l2o.schedules.features import MeasureFeatures
from l2o.schedules.follow import follow

STEPS = 30


def train(rank: int, meeting: str, folder: str) -> None:
    """Trains under a controller that sees what differs between the processes, and keeps decisions and weights."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
    torch.manual_seed(0)
    model = nn.parallel.DistributedDataParallel(nn.Linear(4, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    names = ["loss/error", "loss/size", "gradient/error:model", "metric/validation"]
    controller = Controller(MeasureFeatures(names), 2, temperature=4.0)
    with torch.no_grad():
        controller.layers[0].weight.copy_(Stream(1).normal((4, 2))[0])
    groups = {"model": model.parameters()}
    follower = follow(controller, choices=("error", "size"), groups=groups, steps=STEPS, seed=rank)

    def loss(name: str) -> torch.Tensor:
        values = model((1.0 + rank) * torch.ones(2, 4))  # each has data of its own
        return (values - 1).square().mean() if name == "error" else 0.1 * values.abs().sum()

    follower.measure({name: loss(name) for name in ("error", "size")})
    follower.validated({"validation": 1.0 + rank})
    for _ in range(STEPS):
        choice = follower.choose()
        optimizer.zero_grad()
        value = loss(choice)
        value.backward()
        follower.took({choice: value})
        optimizer.step()
    torch.save([follower.decisions, model.module.weight.detach()], Path(folder) / f"{rank}.pt")
    torch.distributed.destroy_process_group()
