"""Joint training on all losses at once, with balanced gradients: what a schedule has to be better than."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from l2o import trees
from l2o.errors import ArgumentError
from l2o.optimizers.base import LearnedOptimizer
from l2o.processes.balancing import Balancing
from l2o.processes.judging import Judgement, Outcome
from l2o.rng import Stream
from l2o.tasks.alternate import AlternateFamily
from l2o.trees import Tree


@dataclass(frozen=True)
class BalancedRun:
    """What joint training came to.

    Args:
        judgement: what the validations have shown.
        outcome: `[tasks]`, of `Outcome`.
        params: the last parameters.
        weights: of the losses at the last step, `[tasks, losses]`.
    """

    judgement: Judgement
    outcome: Tensor
    params: Tree
    weights: Tensor


@torch.no_grad()
def balanced_run(
    family: AlternateFamily,
    balancing: Balancing,
    rules: Mapping[str, LearnedOptimizer],
    rng: Stream,
    *,
    steps: int,
    validate_every: int = 10,
    patience: int | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> BalancedRun:
    """Trains a batch of replicas on all losses at every step.

    Instances, starts and minibatches are those that `ReplicatedLosses.start` with the same stream has. A step takes a
    gradient of every loss: it costs as much as that many choices of a schedule that takes one loss at a time. A task
    whose loss, gradient or goal is not finite has DIVERGED and stays as it is.

    Args:
        family: where the tasks come from. A loss trains the groups that its pairs name; parameters that several losses
            train are the shared ones. No parameter may be in two of these groups.
        balancing: what makes one gradient of several.
        rules: for each group, what steps it.
        rng: the run's stream.
        steps: at least 1.
        validate_every: steps between validations; the last step is always validated.
        patience: validations without a better one after which a run is finished, or None.
        device: where it runs.
        dtype: in which numbers.

    Raises:
        ArgumentError: a number is not positive, a group has no rule, or groups overlap.
    """
    for name, number in (("steps", steps), ("validate_every", validate_every), ("patience", patience)):
        if number is not None and number < 1:
            raise ArgumentError(f"{name} is {number}; it must be at least 1")
    groups, shared = _groups_of(family, rules)
    losses = list(dict.fromkeys(loss for loss, _ in family.pairs))
    instance = trees.to(family.sample(rng.child("instance")), device, dtype)
    params = trees.to(family.init(instance, rng.child("init")), device, dtype)
    states = {
        group: rules[group].init_state({name: params[name] for name in names}, rng.child("optimizer"))
        for group, names in groups.items()
    }
    judgement = Judgement.of(family.metrics(params, instance), family.goal)
    outcome = torch.where(torch.isfinite(judgement.first), Outcome.RUNNING, Outcome.DIVERGED)
    state: Tree = {}
    weights = torch.ones(len(rng.tasks), len(losses), device=device, dtype=dtype)
    for step in range(steps):
        indices = family.batch_indices(instance, rng.child("batch").at(step=step))
        batch = trees.to(family.gather(indices), device, dtype)
        values, grads = _every_gradient(family, losses, params, instance, batch)
        if step == 0:
            state = balancing.begin(values)
        rows = [torch.cat([_row(grad, name, params) for name in shared], 1) for grad in grads] if shared else []
        gradients = torch.stack(rows, 1) if shared else values[:, :, None] * 0  # [tasks, losses, coordinates]
        found = balancing.balance(values, gradients, state, rng.child("balance").at(step=step))
        state, weights = found.state, found.weights
        total = {
            name: _over_tasks(weights[:, place], leaf) * leaf
            for place, grad in enumerate(grads)
            for name, leaf in grad.items()
            if name not in shared
        }
        if shared:
            total |= trees.unflatten(found.gradient, {name: params[name] for name in shared})
        finite = torch.isfinite(values).all(1) & trees.finite_tasks(total)
        outcome = torch.where(~finite & (outcome == Outcome.RUNNING), Outcome.DIVERGED, outcome)
        alive = outcome == Outcome.RUNNING
        for group, names in groups.items():
            here = {name: params[name] for name in names}
            update, new = rules[group](trees.join(grad={name: total[name] for name in names}), states[group])
            states[group] = trees.where_tasks(alive, new, states[group])
            params |= trees.where_tasks(alive, trees.map_leaves(torch.add, here, update), here)
        if (step + 1) % validate_every == 0 or step + 1 == steps:
            metrics = family.metrics(params, instance)
            lost = alive & ~torch.isfinite(metrics[family.goal.metric])
            judgement = judgement.after(metrics, family.goal, step + 1, alive & ~lost)
            outcome = torch.where(lost, Outcome.DIVERGED, outcome)
            if patience is not None:
                waited = (outcome == Outcome.RUNNING) & (judgement.waited >= patience)
                outcome = torch.where(waited, Outcome.FINISHED, outcome)
            if not bool((outcome == Outcome.RUNNING).any()):
                break
    return BalancedRun(judgement, outcome, params, weights)


def _groups_of(
    family: AlternateFamily, rules: Mapping[str, LearnedOptimizer]
) -> tuple[dict[str, tuple[str, ...]], list[str]]:
    """The groups that any loss trains, and the names of the parameters that several losses do."""
    groups = {group: family.groups[group] for _, group in family.pairs}
    owner = {name: group for group, names in groups.items() for name in names}
    if len(owner) < sum(map(len, groups.values())):
        raise ArgumentError(f"the groups {', '.join(groups)} overlap; give each parameter one group, and so one rule")
    if missing := groups.keys() - rules.keys():
        known = ", ".join(rules) or "none"
        raise ArgumentError(f"no rule for {', '.join(sorted(missing))}; there are {known}")
    trained_by = {group: sum(pair[1] == group for pair in family.pairs) for group in groups}
    return groups, [name for name, group in owner.items() if trained_by[group] > 1]


def _every_gradient(
    family: AlternateFamily, losses: list[str], params: Tree, instance: Tree, batch: Tree
) -> tuple[Tensor, list[Tree]]:
    """All losses `[tasks, losses]`, and the gradient of each to all that it trains."""
    values: Tree = {}
    grads: dict[str, Tree] = {loss: {} for loss in losses}
    for pair in family.pairs:
        values[pair[0]], found = family.pair_value_and_grad(pair, params, instance, batch)
        grads[pair[0]] |= found
    return torch.stack([values[loss] for loss in losses], 1), [grads[loss] for loss in losses]


def _row(grad: Tree, name: str, params: Tree) -> Tensor:
    """One parameter's gradient as `[tasks, coordinates]`; zeros where a loss does not reach it."""
    leaf = grad[name] if name in grad else torch.zeros_like(params[name])
    return leaf.reshape(len(leaf), -1)


def _over_tasks(weights: Tensor, leaf: Tensor) -> Tensor:
    return weights.reshape(-1, *[1] * (leaf.ndim - 1))
