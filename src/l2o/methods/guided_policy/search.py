"""Guided policy search: local controllers are optimized one step at a time, and a policy learns to act like them."""

import math
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from l2o import trees
from l2o.errors import ArgumentError, DivergedError
from l2o.horizons import Horizon
from l2o.kernels.reference import replay
from l2o.kernels.targets import Squared
from l2o.methods.base import Estimate, OptimizerMethod, Trajectory
from l2o.methods.guided_policy.alternation import Alternation, BregmanADMM, Duals, policy_variance
from l2o.methods.guided_policy.cost import CostModel, NewtonDecrement, fit_cost
from l2o.methods.guided_policy.dual_search import LEAST, MOST, constrained
from l2o.methods.guided_policy.dynamics import fit_dynamics
from l2o.methods.guided_policy.features import StateFeatures
from l2o.methods.guided_policy.gains import Gains
from l2o.methods.guided_policy.linearise import initial_controller, linearise_policy, mean_square
from l2o.methods.guided_policy.local_models import LinearGaussian
from l2o.methods.guided_policy.sampling import (
    READS,
    ControllerDrives,
    Explored,
    Samples,
    at,
    clock,
    in_dtype,
    mean_loss,
    mean_losses,
    sample,
)
from l2o.optimizers.base import LearnedOptimizer
from l2o.optimizers.handcrafted import Momentum
from l2o.processes.optimizee import Optimizee
from l2o.rng import Stream
from l2o.rollout import AgentDrives, Driver, States
from l2o.trees import Tree


@dataclass(frozen=True)
class Exploration:
    """How controllers are tried out.

    Args:
        jitter: deviation of the logarithm of each trajectory's gain, see `sampling.Explored`.
        coordinates: of each group that are kept of a trajectory, at most.
        examples: the objective's gradient is a mean over so many examples; None for all.
        least_noise: of a controller's actions, as a part of their root mean square.
        most_noise: the same.
    """

    jitter: float = 0.3
    coordinates: int = 128
    examples: int | None = None
    least_noise: float = 0.03
    most_noise: float = 0.3


@dataclass(frozen=True)
class Fits:
    """How local models are fitted and controllers changed.

    Args:
        cost: what states cost.
        window: half width of the windows of all fits, in steps.
        prior_window: of the dynamics' prior.
        trust: nats by which a controller may change in an iteration, per step and coordinate.
        widest: how many times `trust` the trust region may become, as long as new controllers are better. A policy
            does not keep up with controllers that change much faster.
        gains: how gains are tried larger and smaller after that; None to leave them to the models.
    """

    cost: CostModel = field(default_factory=NewtonDecrement)
    window: int = 3
    prior_window: int = 25
    trust: float = 0.5
    widest: float = 1.0
    gains: Gains | None = field(default_factory=Gains)


@dataclass(frozen=True)
class Regression:
    """How the policy learns from controllers.

    Args:
        passes: of controlling and regressing for each batch of trajectories.
        steps: of the meta-optimizer in each pass.
        pairs: of a trajectory and a coordinate in each step, all groups together.
        truncate: inner steps that gradients go back.
        entropy: see `alternation.policy_variance`.
    """

    passes: int = 4
    steps: int = 500
    pairs: int = 256
    truncate: int = 100
    entropy: float = 1e-2


@dataclass(frozen=True)
class Start:
    """The first controller: it imitates a known optimizer.

    Args:
        optimizer: tuned on the tasks of the meta-training.
        factor: of its steps; below 1 there is more to learn.
        noise: deviation of the controller, as a part of its actions' root mean square.
    """

    optimizer: LearnedOptimizer = field(default_factory=lambda: Momentum(0.1))
    factor: float = 1.0
    noise: float = 0.1


@dataclass(frozen=True)
class Standing:
    """What one iteration hands on to the next.

    Args:
        controller: psi.
        before: the one before it, which did not diverge.
        duals: of the alternation.
        multiplier: beta of the last control step, `[groups]`.
        kappa: units of the cost, `[groups]`.
        unit: mean square of the first controller's actions, `[groups]`: that of the regression's loss.
        variance: of the policy, `[groups]`.
        scale: of the trust region.
        factors: logarithms of those by which gains are tried next, see `Gains.begin`.
        value: mean loss under the controller's mean actions.
        iteration: how many are done.
    """

    controller: LinearGaussian
    before: LinearGaussian
    duals: Duals
    multiplier: Tensor
    kappa: Tensor
    unit: Tensor
    variance: Tensor
    scale: Tensor
    factors: Tensor
    value: Tensor
    iteration: int

    def tree(self, dtype: torch.dtype) -> Tree:
        """Flat, for a checkpoint. Its numbers are rounded to the run's type, so that a resumed run has the same."""
        kinds = {"controller": vars(self.controller), "before": vars(self.before), "duals": vars(self.duals)}
        plain = {n: leaf for n, leaf in vars(self).items() if isinstance(leaf, Tensor)}
        flat = {**trees.join(**kinds), **plain}
        return {n: leaf.to(dtype) for n, leaf in flat.items()} | {"iteration": torch.tensor(self.iteration)}

    @classmethod
    def of(cls, tree: Tree) -> "Standing":
        """The inverse of `tree`."""
        double = {name: leaf.double() for name, leaf in tree.items()}
        plain = {name: leaf for name, leaf in double.items() if "/" not in name and name != "iteration"}
        return cls(
            controller=LinearGaussian(**trees.select(double, "controller")),
            before=LinearGaussian(**trees.select(double, "before")),
            duals=Duals(**trees.select(double, "duals")),
            iteration=int(tree["iteration"]),
            **plain | {"multiplier": plain["multiplier"].clamp(LEAST, MOST)},  # which rounding may have left
        )


class GuidedPolicySearch(OptimizerMethod):
    """Controllers of coordinate groups improve by model-based control; the learned optimizer imitates them.

    A trajectory of the outer loop is one iteration, and its one window the whole horizon:

    1. The controllers drive a batch of tasks, with noise.
    2. Linear dynamics and a quadratic cost are fitted to what they did, for each group of coordinates and each step.
    3. Passes: the controllers are optimized against these models, within a trust region and pulled to the policy; the
       policy is regressed on the controllers. New controllers are kept if they do better on the same tasks: those of
       all groups, or of the groups that help by themselves, or of one, whichever does best. Then their gains are tried
       larger and smaller.

    The learned optimizer's action is the mean of the policy. Its meta-optimizer takes `regression.passes` times
    `regression.steps` steps an iteration.

    What goes wrong: more than a quarter of the trajectories diverge, then the controller before drives, in a trust
    region of a quarter, and after it the first one at half its gains and half again; a control step without a solution
    is left out; controllers that do worse, or diverge, are dropped, and the trust region shrinks to 0.3 of it if all
    are.

    Args:
        features: what controllers see.
        alternation: `BregmanADMM()` or `MirrorDescent()`.
        exploration: how controllers are tried out.
        fits: how models are fitted and controllers changed.
        regression: how the policy learns.
        start: the first controller.

    Example:
        >>> import l2o
        >>> from l2o.tasks.data import blobs
        >>> family = l2o.ProjectedClassification(blobs(), dimensions=4, hidden=4)
        >>> method = l2o.GuidedPolicySearch(
        ...     features=StateFeatures((2, 4, 2)), regression=Regression(passes=1, steps=5, pairs=32),
        ...     start=Start(l2o.SGD(0.3)),
        ... )
        >>> plan = l2o.Plan(
        ...     trajectories=1, tasks=4, horizon=l2o.ConstantHorizon(10, 10), validation_tasks=2, validation_last=1
        ... )
        >>> trained = l2o.metatrain(l2o.PredictedStep(hidden=4), family, method, plan)
        >>> trained.best.value <= trained.validations[0].value
        True

    Source: Li and Malik 2017, section 3; what it leaves open is settled by measurement, see docs/guided_policy.md.
    """

    reads = READS
    name = "guided policy search"
    moments = ("policy",)

    def __init__(
        self,
        *,
        features: StateFeatures | None = None,
        alternation: Alternation | None = None,
        exploration: Exploration | None = None,
        fits: Fits | None = None,
        regression: Regression | None = None,
        start: Start | None = None,
    ) -> None:
        self.features = features or StateFeatures()
        self.alternation = alternation or BregmanADMM()
        self.exploration = exploration or Exploration()
        self.fits = fits or Fits()
        self.regression = regression or Regression()
        self.start = start or Start()

    def describe(self) -> dict[str, Any]:
        start = self.start
        return {
            "name": self.name,
            "features": vars(self.features),
            "alternation": self.alternation.describe(),
            "exploration": vars(self.exploration),
            "fits": {
                **vars(self.fits),
                "cost": {"name": type(self.fits.cost).__name__, **vars(self.fits.cost)},
                "gains": None if self.fits.gains is None else vars(self.fits.gains),
            },
            "regression": vars(self.regression),
            "start": {
                "optimizer": {"optimizer": type(start.optimizer).__name__, **start.optimizer.config()},
                "factor": start.factor,
                "noise": start.noise,
            },
        }

    def companions(self) -> dict[str, LearnedOptimizer]:
        return {"first controller's optimizer": self.start.optimizer}

    def check(self, horizon: Horizon) -> None:
        lengths = list(horizon.lengths(horizon.begin(), Stream(0)))
        if lengths != [stage.steps for stage in horizon.stages]:
            raise ArgumentError(
                f"the horizon has windows of {lengths} steps in {len(horizon.stages)} stages; controllers are made for "
                "one number of steps: take a constant horizon with one window as long as it is"
            )

    def window(self, optimizer: LearnedOptimizer, trajectory: Trajectory, steps: int) -> tuple[Estimate, Trajectory]:
        process = trajectory.process
        memory = trajectory.states.get("memory")
        work = _Iteration(self, optimizer, process, steps).run(Standing.of(memory) if memory else None)
        following = _next(work)
        assert isinstance(following, Estimate)
        return following, trajectory


def _next(work: "Generator[Estimate, None, Trajectory]") -> Estimate | Trajectory:
    try:
        estimate = next(work)
    except StopIteration as end:
        return end.value
    return replace(estimate, then=lambda: _next(work))


@dataclass(frozen=True)
class _Iteration:
    """One iteration: everything that does not change while it runs."""

    method: GuidedPolicySearch
    policy: LearnedOptimizer
    process: Optimizee
    steps: int

    @property
    def _rng(self) -> Stream:
        return self.process.rng.child("guided")

    @property
    def _dtype(self) -> torch.dtype:
        return next(iter(self.process.params.values())).dtype

    def run(self, standing: Standing | None) -> Generator[Estimate, None, Trajectory]:
        group = self._group()
        if standing is None:
            standing = self._begin(group)
            samples, standing = self._sampled(standing, group)
            first = {"value": float(standing.value), "pass": -1.0}
            yield from self._regress(samples, standing, first, self._rng.child("first pairs"))
        else:
            samples, standing = self._sampled(standing, group)
        method, alive = self.method, samples.alive
        fits = method.fits
        dynamics = fit_dynamics(
            samples.states,
            samples.actions,
            window=fits.window,
            prior_window=fits.prior_window,
            known=0 if method.features.position else None,
            alive=alive,
        )
        kappa = standing.kappa if bool(standing.kappa.any()) else None
        fitted = fit_cost(
            fits.cost, samples.states, samples.actions, gradients=samples.slopes, kappa=kappa, alive=alive
        )
        standing = replace(standing, kappa=fitted.kappa)
        old = standing
        for number in range(method.regression.passes):
            last = number == method.regression.passes - 1
            means = samples.means(self.policy)
            linear = linearise_policy(
                samples.states,
                means,
                actions=samples.actions,
                variance=standing.variance,
                window=fits.window,
                alive=alive,
            )
            standing, divergence = self._dual_step(samples, standing, means, adapt=last)
            control = method.alternation.control(old.controller, linear, standing.duals)
            outcome: dict[str, float] = {}
            try:
                found = constrained(
                    dynamics,
                    fitted.cost,
                    control.previous,
                    budget=fits.trust * float(standing.scale) * self.steps,
                    multiplier=standing.multiplier,
                    policy=control.policy,
                    penalty=control.penalty,
                    dual=control.dual,
                )
            except DivergedError:
                standing = replace(standing, scale=_shrunk(standing.scale), controller=old.controller)
                outcome["unsolved"] = 1.0
            else:
                proposed = self._bounded(found.controller, samples)
                duals = method.alternation.penalised(standing.duals, found.multiplier)
                standing = replace(standing, controller=proposed, multiplier=found.multiplier, duals=duals)
                outcome["kl"] = float(found.divergence.mean()) / self.steps
            if last:
                judge = self._unchanged if "unsolved" in outcome else self._judged
                standing, judged = judge(standing, old, group)
                standing, tried = self._tried(standing, group)
                outcome |= judged | tried
            weights, _ = method.alternation.weights(standing.controller, standing.duals)
            variance = policy_variance(standing.controller, weights, entropy=method.regression.entropy)
            standing = replace(standing, variance=variance)
            outcome |= {
                "pass": float(number),
                "policy_kl": float(divergence.mean()),
                "r_squared": float(fitted.r_squared.nanmean()),
                "scale": float(standing.scale),
                "sampling_diverged": float(samples.diverged.double().mean()),
            }
            yield from self._regress(samples, standing, outcome, self._rng.child(f"pairs {number}"))
        standing = replace(standing, before=old.controller, iteration=standing.iteration + 1)
        return Trajectory(self.process, {"memory": standing.tree(self._dtype)})

    # ---- the parts, in the order in which they come

    def _group(self) -> Tensor:
        """The number of each coordinate's group, `[coordinates]`."""
        shapes = {name: leaf.shape[1:] for name, leaf in self.process.params.items()}
        return self.policy.coordinate_groups(shapes)

    def _begin(self, group: Tensor) -> Standing:
        """The first controller: it imitates an optimizer, more and more cautiously until it is nearly as good."""
        start, features, gains = self.method.start, self.method.features, self.method.fits.gains
        agent = AgentDrives(start.optimizer)
        fresh = start.optimizer.init_state(self.process.params, self._rng.child("start"))
        states: States = {"agent": fresh}
        samples = self._sample(agent, states, group, self._rng.child("start"))
        wanted = mean_loss(samples.losses, samples.diverged)
        seen = range(features.states)[features.gradients]
        controller = initial_controller(
            samples.states,
            samples.actions,
            features=list(seen),
            window=self.method.fits.window,
            noise=start.noise,
            alive=samples.alive,
        )
        factor = start.factor
        for _ in range(_TRIES):
            tried = _scaled(controller, factor)
            value, _ = self._value(tried, group)
            # A factor below 1 asks for a worse start; then not to diverge is enough.
            if value <= 1.25 * wanted or (start.factor < 1 and value < math.inf):
                break
            factor = factor / 2
        else:
            raise DivergedError(
                f"no controller that imitates {start.optimizer.name} is within 1.25 times its mean loss of "
                f"{wanted:.4g}, down to {factor:.3g} of its steps; tune the optimizer on these tasks, or lower its "
                "learning rate"
            )
        squares = torch.stack([a[samples.alive[:, 1:]].square().mean() for a in samples.actions]) * factor**2
        everyone = torch.cat([a * factor for a in samples.actions], dim=2)[samples.alive[:, 0]]
        watched = [{name: leaf[samples.alive[:, 0]] for name, leaf in seen.items()} for seen in samples.observations]
        self.policy.calibrate(watched, everyone, samples.group_of)
        ones = torch.ones_like(squares)
        return Standing(
            controller=tried,
            before=tried,
            duals=Duals.none(len(squares), self.steps),
            multiplier=ones,
            kappa=torch.zeros_like(squares),
            unit=squares,
            variance=start.noise**2 * squares,
            scale=torch.ones((), dtype=torch.float64),
            factors=gains.begin(len(squares)) if gains is not None else torch.zeros_like(squares)[:, None],
            value=torch.tensor(value, dtype=torch.float64),
            iteration=0,
        )

    def _sampled(self, standing: Standing, group: Tensor) -> tuple[Samples, Standing]:
        """Trajectories to learn from; where too many diverge, from a more cautious controller."""
        rng, on_policy = self._rng.child("explore"), self.method.alternation.on_policy_from
        for attempt in range(_TRIES):
            if on_policy is not None and standing.iteration >= on_policy and attempt == 0:
                driver: Driver = AgentDrives(self.policy)
                begun: States = {"agent": self.policy.init_state(self.process.params, rng.child("agent"))}
                deviations = standing.variance.sqrt()[:, None].expand(-1, self.steps)
            else:
                driver = self._drives(standing.controller, group)
                begun = driver.begin(self.process)
                deviations = standing.controller.G[..., 0, 0].sqrt()
            places = _places(group)
            explored = Explored.of(
                driver,
                deviations.to(self._dtype)[places].T.contiguous(),
                rng.at(step=attempt),
                jitter=self.method.exploration.jitter,
            )
            samples = self._sample(explored, {**begun, **clock(self.process)}, group, rng.child("which"))
            if float(samples.diverged.double().mean()) <= _MOST_DIVERGED:
                return samples, standing
            safer = standing.before if attempt == 0 else _scaled(standing.before, 0.5**attempt)
            standing = replace(standing, controller=safer, scale=(standing.scale / 4).clamp(min=_LEAST_SCALE))
        raise DivergedError(
            f"in iteration {standing.iteration} more than {_MOST_DIVERGED:.0%} of the trajectories diverge even under "
            f"the controller before, at {0.5 ** (_TRIES - 1):.3g} of its gains; begin from an optimizer with a lower "
            "learning rate, or lower the jitter or the noise of the exploration"
        )

    def _sample(self, driver: Driver, states: States, group: Tensor, rng: Stream) -> Samples:
        exploration = self.method.exploration
        return sample(
            self.process,
            driver,
            states,
            steps=self.steps,
            features=self.method.features,
            group=group,
            coordinates=exploration.coordinates,
            examples=exploration.examples,
            rng=rng,
        )

    def _drives(self, controller: LinearGaussian, group: Tensor) -> ControllerDrives:
        return ControllerDrives(in_dtype(controller, self._dtype), self.method.features, _places(group))

    def _value(self, controller: LinearGaussian, group: Tensor) -> tuple[float, float]:
        """The mean loss under a controller's mean actions, on the tasks of this iteration; and the diverged share."""
        driver = self._drives(controller, group)
        return mean_losses(self.process, driver, driver.begin(self.process), self.steps)

    def _dual_step(
        self, samples: Samples, standing: Standing, means: list[Tensor], *, adapt: bool
    ) -> tuple[Standing, Tensor]:
        """The dual variables after their step, and E KL(psi || pi) in the samples, `[groups, steps]`."""
        own = at(standing.controller, samples.states)
        valid = samples.alive[:, 0]
        excess = [(mean - mine)[valid] for mean, mine in zip(means, own, strict=True)]
        shift = torch.stack([part.mean((0, 2)) for part in excess])
        square = torch.stack([part.square().mean((0, 2)) for part in excess])
        G, variance = standing.controller.G[..., 0, 0], standing.variance[:, None]
        divergence = (variance.log() - G.log() - 1 + (G + square) / variance) / 2
        duals = self.method.alternation.stepped(standing.duals, standing.controller, shift)
        duals = self.method.alternation.adapted(duals, divergence) if adapt else duals
        return replace(standing, duals=duals), divergence

    def _bounded(self, controller: LinearGaussian, samples: Samples) -> LinearGaussian:
        """With noise that is neither too small to learn from nor so large that it harms."""
        exploration = self.method.exploration
        transitions = samples.alive[:, 1:]
        squares = mean_square(samples.actions, window=self.method.fits.window, alive=transitions)
        low, high = (share**2 * squares[..., None, None] for share in (exploration.least_noise, exploration.most_noise))
        return replace(controller, G=controller.G.maximum(low).minimum(high.maximum(low)))

    def _judged(self, standing: Standing, old: Standing, group: Tensor) -> tuple[Standing, dict[str, float]]:
        """Keeps of the proposed controllers what does better on the same tasks than the old ones, group by group."""
        old_value, _ = self._value(old.controller, group)
        everyone = list(range(len(standing.controller.k)))
        together, diverged = self._value(standing.controller, group)
        alone = {g: self._value(_chosen(standing.controller, old.controller, [g]), group)[0] for g in everyone}
        found = {tuple(everyone): together} | {(g,): value for g, value in alone.items()}
        helpful = tuple(g for g in everyone if alone[g] < old_value)
        if helpful and helpful not in found:
            found[helpful], _ = self._value(_chosen(standing.controller, old.controller, helpful), group)
        best = min(found, key=lambda groups: found[groups])
        numbers = {"proposed": min(together, 1e30), "proposed_diverged": diverged}
        accepted = found[best] < old_value
        value = found[best] if accepted else old_value
        controller = _chosen(standing.controller, old.controller, best) if accepted else old.controller
        scale = (1.5 * standing.scale).clamp(max=self.method.fits.widest) if accepted else _shrunk(standing.scale)
        kept = replace(standing, controller=controller, scale=scale, value=torch.tensor(value, dtype=torch.float64))
        return kept, {**numbers, "value": value, "accepted": float(accepted), "groups": len(best) * float(accepted)}

    def _unchanged(self, standing: Standing, old: Standing, group: Tensor) -> tuple[Standing, dict[str, float]]:
        """The old controllers, with their value on the tasks of this iteration."""
        value, _ = self._value(old.controller, group)
        return replace(standing, value=torch.tensor(value, dtype=torch.float64)), {"value": value}

    def _tried(self, standing: Standing, group: Tensor) -> tuple[Standing, dict[str, float]]:
        """The controllers with those gains that do better on the same tasks."""
        gains = self.method.fits.gains
        if gains is None:
            return standing, {}
        found = gains.tried(
            standing.controller,
            float(standing.value),
            standing.factors,
            lambda controller: self._value(controller, group)[0],
        )
        value = torch.tensor(found.value, dtype=torch.float64)
        kept = replace(standing, controller=found.controller, value=value, factors=found.factors)
        return kept, {
            "value": found.value,
            "before_gains": float(standing.value),
            "gains": float(found.changed),
            "gain_trials": float(found.trials),
        }

    def _regress(
        self, samples: Samples, standing: Standing, outcome: dict[str, float], rng: Stream
    ) -> Generator[Estimate, None, None]:
        """Meta-gradients of the policy's weighted squared distance from the controllers; the first tells `outcome`."""
        settings = self.method.regression
        weights, added = self.method.alternation.weights(standing.controller, standing.duals)
        weights = _tamed(weights)
        targets = [mine + added[g, :, None] for g, mine in enumerate(at(standing.controller, samples.states))]
        valid = samples.alive[:, 0].nonzero()[:, 0]
        each = max(1, settings.pairs // (len(targets) * len(valid)))
        record = {n: torch.stack([seen[n][valid] for seen in samples.observations]) for n in samples.observations[0]}
        for step in range(settings.steps):
            drawn = [
                part.start + rng.child(str(g)).at(step=step).over((0,)).integers(part.stop - part.start, (each,))[0]
                for g, part in enumerate(samples.members)
            ]
            place = torch.cat(drawn)
            goal = torch.cat([targets[g][:, :, drawn[g] - samples.members[g].start] for g in range(len(targets))], 2)
            share = torch.cat(
                [(weights[g] / standing.unit[g] / 2)[:, None].expand(-1, each) for g in range(len(targets))], dim=1
            )
            seen = {n: leaf[:, :, place] if leaf.ndim > 2 else leaf for n, leaf in record.items()}
            start = {n: leaf[valid] for n, leaf in samples.start(self.policy).items()}
            start = {n: leaf[:, place] if leaf.ndim > 1 else leaf for n, leaf in start.items()}
            yield from self._estimates(seen, start, goal[valid], share, outcome if step == 0 else {})

    def _estimates(
        self, record: Tree, state: Tree, goal: Tensor, share: Tensor, outcome: dict[str, float]
    ) -> Generator[Estimate, None, None]:
        """One estimate for each part of the horizon.

        Args:
            record: observations `[steps, tasks(, pairs)]`.
            state: of the policy, before the first step.
            goal: `[tasks, steps, pairs]`.
            share: `[steps, pairs]`.
            outcome: what the first estimate tells.
        """
        length = self.method.regression.truncate
        theta = dict(self.policy.named_parameters())
        for begin in range(0, self.steps, length):
            stop = min(begin + length, self.steps)
            seen = [{n: leaf[step] for n, leaf in record.items()} for step in range(begin, stop)]
            wanted = goal[:, begin:stop].movedim(1, 0).to(self._dtype)  # [steps, tasks, pairs]
            weight = (share[begin:stop, None] / wanted[0].numel() / len(wanted)).to(self._dtype)
            target = Squared(wanted, weight)
            with torch.enable_grad():
                actions, after = replay(self.policy, seen, state)
                terms = [target.value(i, trees.flatten(a), slice(None)) for i, a in enumerate(actions)]
                loss = torch.stack(terms).sum()
                gradient = torch.autograd.grad(loss, list(theta.values()), materialize_grads=True)
            state = {n: leaf.detach() for n, leaf in after.items()}
            yield Estimate(
                dict(zip(theta, gradient, strict=True)), float(loss.detach()), "policy", outcome if begin == 0 else {}
            )


_TRIES = 6
_MOST_DIVERGED = 0.25
_LEAST_SCALE = 1e-3


def _places(group: Tensor) -> Tensor:
    """The place of each coordinate's group among those that there are."""
    return group.unique(return_inverse=True)[1]


def _chosen(new: LinearGaussian, old: LinearGaussian, groups: Sequence[int]) -> LinearGaussian:
    """The new controllers of some groups, the old ones of the others."""
    leaves = {name: leaf.clone() for name, leaf in vars(old).items()}
    for name, leaf in leaves.items():
        leaf[list(groups)] = getattr(new, name)[list(groups)]
    return LinearGaussian(**leaves)


def _scaled(controller: LinearGaussian, factor: float) -> LinearGaussian:
    return LinearGaussian(factor * controller.K, factor * controller.k, factor**2 * controller.G)


def _shrunk(scale: Tensor) -> Tensor:
    return (0.3 * scale).clamp(min=_LEAST_SCALE)


def _tamed(weights: Tensor) -> Tensor:
    """Of mean 1 and at most about twice the median: they span decades. `[groups, steps]`."""
    unit = weights / weights.mean(1, keepdim=True)
    unit = unit.minimum(2 * unit.median(1, keepdim=True).values)
    return unit / unit.mean(1, keepdim=True)
