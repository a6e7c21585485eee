"""Evolution strategies: meta-gradients from losses alone, of runs with perturbed meta-parameters."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from l2o import trees
from l2o.agent import meta_parameters
from l2o.errors import ArgumentError
from l2o.methods.base import Estimate, Evidence, OptimizerMethod, Trajectory
from l2o.methods.meta_loss import Objective, Weights, checked, iterate_weights, objective_value, value_of_sums
from l2o.optimizers.base import LearnedOptimizer
from l2o.processes.optimizee import Optimizee
from l2o.rng import Stream
from l2o.rollout import States
from l2o.trees import Tree

Shaping = Literal["none", "ranks"]

_COMMON = frozenset({"perturbations"})
"""States of PES that belong to no task."""


class ES(OptimizerMethod):
    """Antithetic evolution strategies over one window.

        gradient = mean over pairs i of  (L(phi + e_i) - L(phi - e_i)) / (2 sigma^2) e_i,      e_i ~ N(0, sigma^2 I)

    L is the window's meta-loss, sum_j w_j f_j(theta_j) of `MetaLoss`. Every window starts from where the unperturbed
    optimizer has come to, parameters and its own state; what it estimates is the gradient of L, smoothed over phi by
    the normal distribution of width sigma, with that start held constant. So it is a truncated gradient, with the same
    bias as that of `MetaLoss` and `Unrolled`, and nothing else is held constant: as sigma falls it tends to that of
    `Unrolled`. An initial state that depends on phi is perturbed too, in a trajectory's first window.

    Both runs of a pair meet the same tasks, starts, minibatches and noise, as all pairs do; a pair has one perturbation
    for all tasks. A task that diverges under one side of a pair is left out of this pair, and the share of such runs
    is the diagnostic `pairs_lost`; when nothing is left, the estimate is not a number and the window is skipped.
    A window costs 2 pairs + 1 runs without gradients to phi, whose memory does not grow with its steps.

    Processes that share the tasks tell each other losses alone: each draws all perturbations by itself.

    Args:
        sigma: standard deviation of the perturbations, in units of the meta-parameters; positive.
        pairs: antithetic pairs in a window, at least 1. The variance falls as 1 / pairs.
        weights: "all" or "last", as in `MetaLoss`.
        objective: "loss" or "log", as in `MetaLoss`.
        shaping: "none" takes differences of L; "ranks" those of its rank among a task's runs, from -1/2 to 1/2: an
            outlier then counts no more than another run, and the estimate is a direction, no longer L's gradient.

    Example:
        >>> import l2o
        >>> plan = l2o.Plan(trajectories=1, horizon=l2o.ConstantHorizon(4, 2), validation_tasks=1, validation_last=1)
        >>> trained = l2o.metatrain(l2o.MLPLOpt(), l2o.Quadratics(2), ES(sigma=0.02, pairs=2), plan)
        >>> trained.card.method, trained.skipped
        ('es', 0)

    Source: Salimans et al. 2017; ranks as there. Antithetic and with L2O's windows: Metz et al. 2019.
    """

    name = "es"
    moments = ("meta-loss",)
    shares = True
    reads: ClassVar[frozenset[str]] = frozenset({"loss"})

    def __init__(
        self,
        *,
        sigma: float = 0.01,
        pairs: int = 16,
        weights: Weights = "all",
        objective: Objective = "loss",
        shaping: Shaping = "none",
    ) -> None:
        if shaping not in ("none", "ranks"):
            raise ArgumentError(f"shaping is {shaping!r}; choose 'none' or 'ranks'")
        self.sigma, self.pairs = _checked_perturbations(sigma, pairs)
        self.weights: Weights
        self.objective: Objective
        self.weights, self.objective = checked(weights, objective)
        self.shaping: Shaping = shaping

    @torch.no_grad()
    def window(self, optimizer: LearnedOptimizer, trajectory: Trajectory, steps: int) -> tuple[Estimate, Trajectory]:
        process: Optimizee = trajectory.process
        noise = perturbations(optimizer, process, sigma=self.sigma, pairs=self.pairs)
        sides, own = perturbed(optimizer, noise), trajectory.states["agent"]
        states = _initial_states(optimizer, sides, process) if process.step == 0 else [own] * len(sides)
        center = {name: leaf.detach() for name, leaf in meta_parameters(optimizer).items()}
        copies = replicated(process, len(sides) + 1)
        runs = run_copies(optimizer, [*sides, center], copies, [*states, own], steps)

        weights = iterate_weights(self.weights, steps)
        values, valid = window_objectives(runs.losses[:-1], runs.alive[:-1], weights, self.objective)
        if self.shaping == "ranks":
            values = centered_ranks(values, valid)
        alive = runs.alive[-1:]  # [1, tasks, steps + 1]
        after = replace(
            process,
            params=_parts(runs.process.params, len(sides) + 1)[-1],
            survivors=alive[0, :, -1],
            step=process.step + steps,
        )
        seen = _seen(values, valid, objective_value(runs.losses[-1:], self.objective), alive)

        def conclude(by_task: Tree, _: Tree) -> Estimate:
            return _conclude(by_task, noise, sigma=self.sigma, weights=weights, copies=1)

        return Evidence(seen, {}, conclude).estimate(), Trajectory(after, {"agent": runs.states[-1]})


class PES(OptimizerMethod):
    """Persistent evolution strategies: truncated windows, and no bias from the truncation.

        gradient = mean over pairs i of  (L(phi + e_i) - L(phi - e_i)) / (2 sigma^2) x_i

    Each side of a pair is a particle that keeps its own parameters and state from window to window; e_i ~ N(0, sigma^2
    I) is drawn anew for each window, and x_i is the sum of all of the pair's perturbations since the trajectory began.
    Summed over the windows of a trajectory, the estimates have the mean of the gradient of the whole trajectory's
    meta-loss, smoothed over phi by N(0, sigma^2 I) in each window, while phi stands still; as it moves between windows,
    the earlier part belongs to the earlier phi. The price is variance, which grows with the number of windows.

    The whole trajectory's meta-loss counts the iterate between two windows once, with the window that it ends: the
    weight w_0 is 0 in L. The value that is reported has it, as `MetaLoss` has, and is the mean over the particles.

    Tasks, starts and minibatches are common to all particles, as in `ES`. A particle that diverges in a task stays
    dead in it until the trajectory ends, and its pair is left out of the mean as in `ES`. The pairs that remain are no
    fair sample any more: with many lost, lower sigma or the meta learning rate.

    Args:
        sigma: as in `ES`.
        pairs: as in `ES`; 2 pairs particles, of which a checkpoint holds parameters and state.
        weights: "all" or "last", as in `MetaLoss`; "last" is the last iterate of each window.
        objective: "loss" or "log", as in `MetaLoss`.

    Example:
        >>> import l2o
        >>> plan = l2o.Plan(trajectories=1, horizon=l2o.ConstantHorizon(4, 2), validation_tasks=1, validation_last=1)
        >>> trained = l2o.metatrain(l2o.SmallFC(), l2o.Quadratics(2), PES(sigma=0.02, pairs=2), plan)
        >>> trained.card.method, trained.skipped
        ('pes', 0)

    Source: Vicol, Metz and Sohl-Dickstein 2021, algorithm 2.
    """

    name = "pes"
    moments = ("meta-loss",)
    shares = True
    reads: ClassVar[frozenset[str]] = frozenset({"loss"})

    def __init__(
        self, *, sigma: float = 0.01, pairs: int = 16, weights: Weights = "all", objective: Objective = "loss"
    ) -> None:
        self.sigma, self.pairs = _checked_perturbations(sigma, pairs)
        self.weights: Weights
        self.objective: Objective
        self.weights, self.objective = checked(weights, objective)

    @torch.no_grad()
    def begin(self, optimizer: LearnedOptimizer, process: Optimizee, rng: Stream, *, stage: int = 0) -> Trajectory:
        del rng, stage
        sums = {name: leaf.new_zeros(self.pairs, *leaf.shape) for name, leaf in meta_parameters(optimizer).items()}
        return Trajectory(replicated(process, 2 * self.pairs), {"perturbations": sums}, _COMMON)

    @torch.no_grad()
    def window(self, optimizer: LearnedOptimizer, trajectory: Trajectory, steps: int) -> tuple[Estimate, Trajectory]:
        process: Optimizee = trajectory.process
        noise = perturbations(optimizer, process, sigma=self.sigma, pairs=self.pairs)
        sums = trees.map_leaves(torch.add, noise, trajectory.states["perturbations"])
        sides = perturbed(optimizer, noise)
        if process.step == 0:
            one = replace(process, params=_parts(process.params, len(sides))[0], rng=_first_copy(process, len(sides)))
            states = _initial_states(optimizer, sides, one)
        else:
            states = [trajectory.states[_particle(number)] for number in range(len(sides))]
        runs = run_copies(optimizer, sides, process, states, steps)

        weights = iterate_weights(self.weights, steps)
        values, valid = window_objectives(runs.losses, runs.alive, weights, self.objective)
        seen = _seen(values, valid, objective_value(runs.losses, self.objective), runs.alive)

        def conclude(by_task: Tree, _: Tree) -> Estimate:
            return _conclude(by_task, sums, sigma=self.sigma, weights=weights, copies=len(sides))

        after: States = {_particle(number): state for number, state in enumerate(runs.states)}
        moved = Trajectory(runs.process, {"perturbations": sums, **after}, _COMMON)
        return Evidence(seen, {}, conclude).estimate(), moved


@dataclass(frozen=True)
class Runs:
    """What came of copies of a batch of tasks.

    Args:
        losses: `[copies, tasks, steps + 1]`; 0 where a task is dead.
        alive: the same shape, bool.
        process: all copies after the last step.
        states: the optimizer's state of each copy after the last step.
    """

    losses: Tensor
    alive: Tensor
    process: Optimizee
    states: list[Tree]


def perturbations(optimizer: LearnedOptimizer, process: Optimizee, *, sigma: float, pairs: int) -> Tree:
    """The perturbations of the window that begins here, `[pairs, ...]` for each meta-parameter.

    They are a function of the trajectory's stream and the inner step, and the same however many tasks there are.
    """
    draw = process.rng.child("perturbation").at(step=process.step).over(range(pairs))
    return {
        name: (sigma * draw.child(name).normal(leaf.shape)).to(leaf)
        for name, leaf in meta_parameters(optimizer).items()
    }


def perturbed(optimizer: LearnedOptimizer, noise: Mapping[str, Tensor]) -> list[Tree]:
    """The meta-parameters of both sides of all pairs: first all phi + e_i, then all phi - e_i."""
    theta = meta_parameters(optimizer)
    pairs = range(len(next(iter(noise.values()))))
    return [
        {name: leaf.detach() + sign * noise[name][pair] for name, leaf in theta.items()}
        for sign in (1, -1)
        for pair in pairs
    ]


def replicated(process: Optimizee, copies: int) -> Optimizee:
    """So many copies of a batch of tasks as one batch, copy after copy along the tasks' axis.

    A task keeps its global index in every copy, so that all its copies draw the same minibatches and noise.
    """

    def repeat(leaf: Tensor) -> Tensor:
        return leaf.repeat(copies, *[1] * (leaf.ndim - 1))

    return replace(
        process,
        instance=trees.map_leaves(repeat, process.instance),
        params=trees.map_leaves(repeat, process.params),
        survivors=repeat(process.survivors),
        rng=process.rng.over(tuple(process.rng.tasks) * copies),
    )


def run_copies(
    optimizer: LearnedOptimizer, thetas: Sequence[Tree], process: Optimizee, states: Sequence[Tree], steps: int
) -> Runs:
    """Runs every copy of a batch of tasks with meta-parameters of its own. Nothing but losses is recorded.

    The optimizees are evaluated in one batch; the optimizer steps one copy after the other, through whatever kernel
    serves it.

    Args:
        optimizer: who drives.
        thetas: meta-parameters, one tree for each copy.
        process: the copies, as `replicated` makes them.
        states: the optimizer's state in each copy.
        steps: inner steps, at least 1.
    """
    if steps < 1:
        raise ArgumentError(f"a window of {steps} steps; it needs at least 1")
    copies, states = len(thetas), list(states)
    losses, alive = [], []
    for step in range(steps + 1):
        seen, hidden = process.observe()
        losses.append(hidden["loss"].unflatten(0, (copies, -1)))
        alive.append(process.alive.unflatten(0, (copies, -1)))
        if step < steps:
            actions = []
            for copy, (theta, view) in enumerate(zip(thetas, _parts(seen, copies), strict=True)):
                action, moved = torch.func.functional_call(optimizer, theta, (view, states[copy]))
                states[copy] = trees.where_tasks(alive[-1][copy], moved, states[copy])
                actions.append(action)
            process = process.apply(trees.map_leaves(lambda *leaves: torch.cat(leaves), *actions))
    return Runs(torch.stack(losses, dim=-1), torch.stack(alive, dim=-1), process, states)


def window_objectives(
    losses: Tensor, alive: Tensor, weights: Sequence[float], objective: Objective
) -> tuple[Tensor, Tensor]:
    """What a window is worth to each copy, and which pairs count, from losses and alive `[copies, tasks, steps + 1]`.

    Returns:
        Objectives `[2, pairs, tasks]`, of both sides; `[pairs, tasks]` bool, whether a task lived through the window
        on both sides.
    """
    # The first iterate is where the window starts: in ES both sides have it in common.
    later = torch.tensor([0.0, *weights[1:]], dtype=torch.float64, device=losses.device)
    values = (objective_value(losses.double(), objective) * later).sum(-1).unflatten(0, (2, -1))
    return values, alive[..., -1].unflatten(0, (2, -1)).all(0)


def centered_ranks(values: Tensor, valid: Tensor) -> Tensor:
    """Ranks from -1/2 to 1/2 among the valid runs of a task, equal values sharing theirs.

    Args:
        values: `[2, pairs, tasks]`; what is not finite stays not a number.
        valid: `[pairs, tasks]`.
    """
    flat, counted = values.flatten(0, 1), valid.repeat(2, 1)  # [runs, tasks]
    ours, others = flat[:, None], flat[None]  # [runs, runs, tasks]
    below = ((ours > others).double() + 0.5 * (ours == others).double()) * counted
    ranks = (below.sum(1) - 0.5) / (counted.sum(0) - 1).clamp(min=1) - 0.5
    return torch.where(flat.isfinite(), ranks, torch.nan).view_as(values)


def pair_differences(values: Tensor, valid: Tensor) -> Tensor:
    """L+ - L- `[pairs, tasks]` from both sides `[2, pairs, tasks]`, 0 where the pair is not valid."""
    return torch.where(valid, values[0] - values[1], 0.0)


def antithetic_gradient(
    differences: Tensor, valid: Tensor, perturbations: Mapping[str, Tensor], *, sigma: float
) -> Tree:
    """mean of (L+ - L-) / (2 sigma^2) x over the pairs and tasks that are valid; not a number when none is.

    Args:
        differences: L+ - L-, as `pair_differences` gives it, `[pairs, tasks]`.
        valid: `[pairs, tasks]` bool.
        perturbations: x, `[pairs, ...]` for each meta-parameter.
        sigma: their standard deviation in one window.
    """
    slopes = differences.sum(1) / valid.sum() / (2 * sigma**2)  # [pairs]
    return {name: torch.tensordot(slopes.to(leaf), leaf, dims=1) for name, leaf in perturbations.items()}


def _seen(values: Tensor, valid: Tensor, objectives: Tensor, alive: Tensor) -> Tree:
    """The few numbers that a window's estimate follows from, leaves `[tasks, ...]`: no parameter, no gradient.

    Args:
        values: L of both sides, `[2, pairs, tasks]`.
        valid: `[pairs, tasks]` bool.
        objectives: of the copies whose mean is the estimate's value, `[copies, tasks, steps + 1]`.
        alive: the same shape, bool.
    """
    return {
        "difference": pair_differences(values, valid).T,  # [tasks, pairs]
        "valid": valid.T,
        "objective": torch.where(alive, objectives, 0).sum(0),  # [tasks, steps + 1]
        "alive": alive.sum(0),
    }


def _conclude(
    seen: Tree, perturbations: Mapping[str, Tensor], *, sigma: float, weights: Sequence[float], copies: int
) -> Estimate:
    """The estimate from what was `_seen`, with the perturbations that every process draws by itself."""
    valid, alive = seen["valid"].T, seen["alive"]
    gradient = antithetic_gradient(seen["difference"].T, valid, perturbations, sigma=sigma)
    diagnostics = {
        "diverged": 1 - float(alive[:, -1].double().mean()) / copies,
        "pairs_lost": 1 - float(valid.double().mean()),
    }
    return Estimate(gradient, value_of_sums(seen["objective"], alive, weights), "meta-loss", diagnostics)


class _Start(nn.Module):
    """An optimizer's `init_state` as a module's forward: so it can be had with other meta-parameters."""

    def __init__(self, optimizer: LearnedOptimizer) -> None:
        super().__init__()
        self.optimizer = optimizer

    def forward(self, params: Tree, rng: Stream) -> Tree:
        return self.optimizer.init_state(params, rng)


def _initial_states(optimizer: LearnedOptimizer, thetas: Sequence[Tree], process: Optimizee) -> list[Tree]:
    """The state at the start of a trajectory with each of the meta-parameters, of one copy of the tasks."""
    start, rng = _Start(optimizer), process.rng.child("agent")
    own = [{f"optimizer.{name}": leaf for name, leaf in theta.items()} for theta in thetas]
    return [torch.func.functional_call(start, theta, (process.params, rng)) for theta in own]


def _first_copy(process: Optimizee, copies: int) -> Stream:
    """The stream of the tasks themselves, of their copies'."""
    return process.rng.over(process.rng.tasks[: len(process.rng.tasks) // copies])


def _parts(tree: Mapping[str, Tensor], copies: int) -> list[Tree]:
    """One tree for each copy: leaves `[copies * tasks, ...]` to leaves `[tasks, ...]`."""
    parts = zip(*(leaf.chunk(copies) for leaf in tree.values()), strict=True)
    return [dict(zip(tree, part, strict=True)) for part in parts]


def _particle(number: int) -> str:
    """The name of a particle's state among the named states of a trajectory."""
    return f"particle {number}"


def _checked_perturbations(sigma: float, pairs: int) -> tuple[float, int]:
    if not 0 < sigma < float("inf"):
        raise ArgumentError(f"sigma is {sigma}; perturbations need a positive, finite standard deviation, as 0.01")
    if pairs < 1:
        raise ArgumentError(f"pairs is {pairs}; a window needs at least 1 antithetic pair")
    return sigma, pairs
