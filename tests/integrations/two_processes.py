"""What each of two processes does in the distributed runs: a module of its own, which they import fast."""

import copy
import math
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from contract.optimizer_cases import shown, states
from integrations.cases import OPTIMIZERS, batches, loss_of, made, model, values
from torch import distributed, nn
from torch.distributed import checkpoint
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from l2o.errors import L2OError

STEPS_TAKEN, CLIP = 6, 0.5


def run(rank: int, folder: Path) -> None:
    """All jobs for every optimizer; what came of them goes to the folder."""
    torch.set_num_threads(1)
    meeting = f"file://{folder}/meeting"
    distributed.init_process_group("gloo", meeting, timedelta(minutes=5), rank=rank, world_size=2)
    found = {job: {name: do(name, rank, folder) for name in OPTIMIZERS} for job, do in JOBS.items()}
    torch.save(found, folder / f"{rank}.pt")
    distributed.destroy_process_group()


def found_by_both(folder: Path) -> dict[str, dict[str, list[Any]]]:
    """For each job and optimizer what came of it in both processes."""
    torch.multiprocessing.spawn(run, (folder,), nprocs=2)
    found = [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(2)]
    return {job: {name: [each[job][name] for each in found] for name in OPTIMIZERS} for job in JOBS}


def train(
    net: nn.Module, optimizer: torch.optim.Optimizer, steps: int = STEPS_TAKEN, first: int = 0, rank: int | None = None
) -> None:
    """A plain loop with clipping, on a process's half of each minibatch, or the whole of it."""
    half = slice(rank, None, None if rank is None else 2)
    for inputs, targets in batches(steps, first):
        optimizer.zero_grad()
        loss = loss_of(net, (inputs[half], targets[half]))
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), CLIP)
        optimizer.step(**shown(optimizer, loss))


def sharded() -> nn.Sequential:
    """The model, each layer spread over both processes."""
    net = model()
    for layer in (net[0], net[2], net):
        fully_shard(layer)
    return net


def gathered(tree: Any) -> Any:
    """With all of each spread tensor in its place."""
    if isinstance(tree, dict):
        return {key: gathered(value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [gathered(value) for value in tree]
    return tree.full_tensor() if isinstance(tree, DTensor) else tree


def begun(name: str, net: nn.Module) -> torch.optim.Optimizer:
    return made(name, net.parameters(), lr=0.5, weight_decay=0.01)


def replicas(name: str, rank: int, folder: Path) -> Any:
    net = DistributedDataParallel(model())
    optimizer = begun(name, net)
    train(net, optimizer, rank=rank)
    return {"values": values(net), "states": states(optimizer)}


def shards(name: str, rank: int, folder: Path) -> Any:
    net = sharded()
    optimizer = begun(name, net)
    train(net, optimizer, rank=rank)
    held = sum(leaf.to_local().numel() for s in states(optimizer) for leaf in s.values() if isinstance(leaf, DTensor))
    spread = sum(leaf.numel() for state in states(optimizer) for leaf in state.values() if isinstance(leaf, DTensor))
    net[2].requires_grad_(False)  # its gradients stay
    rested = gathered(values(net[2]))
    found = {"values": gathered(values(net)), "held": held, "spread": spread}
    train(net, optimizer, 2, STEPS_TAKEN, rank)
    still = all(map(torch.equal, gathered(values(net[2])), rested))
    return {**found, "still": still, "frozen": gathered(values(net)), "states": gathered(states(optimizer))}


def one_bad_gradient(name: str, rank: int, folder: Path) -> Any:
    """A gradient that is not finite in the part of one process alone: by itself, and behind a scaler."""
    net, found = sharded(), {}
    optimizer = begun(name, net)
    train(net, optimizer, 2, rank=rank)
    before = gathered([values(net), states(optimizer)])
    for p in net.parameters():
        p.grad = torch.ones_like(p)
    if rank == 1:
        net[0].weight.grad.to_local()[0] = math.nan
    try:
        optimizer.step(**shown(optimizer))
    except L2OError as error:
        found["error"] = str(error)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    scaler.scale(torch.zeros(()))  # begins its state
    scaler.step(optimizer, **shown(optimizer))
    scaler.update()
    return {**found, "scale": scaler.get_scale(), "before": before, "after": gathered([values(net), states(optimizer)])}


def flat_pieces(name: str, rank: int, folder: Path) -> Any:
    """What FullyShardedDataParallel hands over."""
    errors = []
    for original in (False, True):
        net = FullyShardedDataParallel(model(), use_orig_params=original, device_id=torch.device("cpu"))
        optimizer = begun(name, net)
        before = values(net)
        try:
            train(net, optimizer, 1, rank=rank)
        except L2OError as error:
            errors.append(str(error))
        assert all(map(torch.equal, values(net), before))
    return errors


def saved(net: nn.Module, optimizer: torch.optim.Optimizer, folder: Path) -> None:
    """A distributed checkpoint."""
    weights, state = get_state_dict(net, optimizer)
    checkpoint.save({"model": weights, "optimizer": state}, checkpoint_id=folder)


def loaded(net: nn.Module, optimizer: torch.optim.Optimizer, folder: Path) -> None:
    """The same back into model and optimizer, which are asked what they need."""
    weights, state = get_state_dict(net, optimizer)
    tree = {"model": weights, "optimizer": state}
    checkpoint.load(tree, checkpoint_id=folder)
    set_state_dict(net, optimizer, model_state_dict=tree["model"], optim_state_dict=tree["optimizer"])


def checkpoints(name: str, rank: int, folder: Path) -> Any:
    """Half a run, saved and loaded; a run that begins with a checkpoint; one that goes on from a single process."""
    found, half = {}, STEPS_TAKEN // 2
    net = sharded()
    optimizer = begun(name, net)
    train(net, optimizer, half, rank=rank)
    saved(net, optimizer, folder / f"spread {name}")
    train(net, optimizer, half, half, rank)
    found["whole"] = gathered(values(net))
    resumed = sharded()
    again = begun(name, resumed)
    loaded(resumed, again, folder / f"spread {name}")
    train(resumed, again, half, half, rank)
    found["resumed"] = gathered(values(resumed))
    early = sharded()
    saved_early = begun(name, early)
    saved(early, saved_early, folder / f"early {name}")
    train(early, saved_early, rank=rank)
    found["early"] = gathered(values(early))
    for kind in ("plain", "spread"):  # with all of it in each process, as a plain file holds it
        other = sharded()
        continued = begun(name, other)
        loaded(other, continued, folder / f"{kind} {name}")
        state = copy.deepcopy(gathered(continued.state_dict()))
        continued.load_state_dict(state)
        train(other, continued, half, half, rank)
        found[f"from {kind}"] = gathered(values(other))
    return found


JOBS: dict[str, Callable[[str, int, Path], Any]] = {
    job.__name__: job for job in (replicas, shards, one_bad_gradient, flat_pieces, checkpoints)
}
