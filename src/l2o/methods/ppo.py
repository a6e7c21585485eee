"""PPO: a schedule learns during its runs, from the rewards of single windows."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from l2o.agent import meta_parameters
from l2o.errors import ArgumentError
from l2o.methods.base import Estimate, Method, Trajectory
from l2o.methods.policy_gradient import Decided, entropies, shares
from l2o.processes.replicated_losses import ReplicatedLosses
from l2o.rng import Stream
from l2o.rollout import rollout
from l2o.schedules.base import ScheduleDrives
from l2o.schedules.controllers import Controller
from l2o.schedules.rewards import LogReward, Reward, describe
from l2o.schedules.runs import outcomes
from l2o.trees import Tree


@dataclass(frozen=True, eq=False)
class Transitions:
    """Single decisions, what they earned, and where they led.

    Args:
        features: `[transitions, width]`.
        choices: `[transitions]`, counted from 0.
        log_probabilities: of the choices when they were made, `[transitions]`.
        rewards: `[transitions]`.
        following: features of the state afterwards, `[transitions, width]`.
        goes_on: 1 where the run went on, 0 where it ended, `[transitions]`.
    """

    features: Tensor
    choices: Tensor
    log_probabilities: Tensor
    rewards: Tensor
    following: Tensor
    goes_on: Tensor

    def some(self, places: Tensor) -> "Transitions":
        """Those at the places given."""
        return Transitions(**{name: leaf[places] for name, leaf in vars(self).items()})


class PPO(Method[Controller, ReplicatedLosses]):
    """Proximal policy optimisation with a critic, several steps for each window of a run.

    The reward of a window is by how much the reward of the run's last validation rose in it, and each of its decisions
    gets it: choose windows as long as the time between validations. A step descends, over a minibatch of the window's
    decisions,

        - mean min(r A, clip(r, 1 - clip, 1 + clip) A) - entropy mean H(p) + mean (V(s) - target)^2
        r = p(choice) / p(choice) when it was made,  target = reward + discount V(s'),  A = target - V(s)

    Args:
        reward: what a run's validation is worth.
        updates: steps for each window.
        minibatch: decisions in each.
        discount: in [0, 1).
        clip: how far a probability's ratio counts.
        entropy: weight of the bonus on the decisions' entropy.

    Example:
        >>> import l2o
        >>> family = l2o.QuadraticRegression(0.4)
        >>> controller = l2o.Controller(l2o.MeasureFeatures(["progress"]), choices=2, critic=[4])
        >>> plan = l2o.Plan(
        ...     trajectories=1, tasks=2, horizon=l2o.ConstantHorizon(6, 3), validation_tasks=1, validation_last=1
        ... )
        >>> settings = l2o.Settings({"model": l2o.Adam(1e-3)}, common=True, validate_every=3)
        >>> l2o.train_schedule(controller, family, settings, PPO(updates=2), plan).finished
        True

    Source: Schulman et al. 2017; constants of AutoLoss's public code for translation (Xu et al. 2019), but its entropy
    (1e-5, and a penalty by mistake), its share of random decisions, and its buffer of 200 old decisions with the newest
    reward, which are not copied.
    """

    moments = ("ppo",)
    reads: ClassVar[frozenset[str]] = frozenset({"loss"})

    def __init__(
        self,
        reward: Reward | None = None,
        *,
        updates: int = 10,
        minibatch: int = 64,
        discount: float = 0.9,
        clip: float = 0.2,
        entropy: float = 1e-2,
    ) -> None:
        if min(updates, minibatch) < 1:
            raise ArgumentError(f"updates is {updates} and minibatch {minibatch}; both must be at least 1")
        if not (0 <= discount < 1 and clip > 0 and entropy >= 0):
            raise ArgumentError(
                f"discount is {discount}, clip {clip} and entropy {entropy}; they must lie in [0, 1), be positive, and "
                "not be negative"
            )
        self.reward = LogReward() if reward is None else reward
        self.updates, self.minibatch, self.discount = updates, minibatch, discount
        self.clip, self.entropy = clip, entropy
        self.name = "ppo"

    def describe(self) -> dict[str, Any]:
        return {"name": self.name, **vars(self), "reward": describe(self.reward)}

    def begin(
        self, agent: Controller, process: ReplicatedLosses, rng: Stream, /, *, stage: int = 0
    ) -> Trajectory[ReplicatedLosses]:
        del stage
        if agent.critic is None:
            raise ArgumentError("PPO needs a critic; make the controller with critic=[32], for instance")
        return Trajectory(process, ScheduleDrives(agent, rng).begin())

    def window(
        self, agent: Controller, trajectory: Trajectory[ReplicatedLosses], steps: int, /
    ) -> tuple[Estimate, Trajectory[ReplicatedLosses]]:
        process = trajectory.process
        driver = ScheduleDrives(agent, process.rng)
        record = rollout(process, driver, trajectory.states, steps, record=agent.reads)
        after: ReplicatedLosses = record.process
        last, _ = agent.features(record.observations[-1], record.exit["agent"])
        decided = Decided.of(record)
        rows = torch.cat([decided.features, last.to(decided.features)[:, None]], dim=1)  # [tasks, steps + 1, width]
        earned = self._worth(after) - self._worth(process)
        logs = torch.stack([action["log_probability"] for action in record.actions], dim=1)
        counted = decided.weights > 0
        transitions = Transitions(
            features=decided.features[counted],
            choices=decided.choices[counted],
            log_probabilities=logs[counted],
            rewards=earned[:, None].expand_as(logs)[counted].to(logs),
            following=rows[:, 1:][counted],
            goes_on=record.alive[:, 1:][counted].to(logs),
        )
        if after.step >= after.steps:
            transitions.goes_on[:] = 0
        agent.features.learn(transitions.features)
        diagnostics = {"reward": float(earned.mean()), **shares(decided, after), **outcomes(after)}
        rng = after.rng.child("minibatch").over(range(1)).at(step=after.step)
        return self._estimate(agent, transitions, rng, 0, diagnostics), Trajectory(after, record.exit)

    def _worth(self, process: ReplicatedLosses) -> Tensor:
        """The reward of the runs' last validations, `[tasks]`."""
        goal = process.family.goal
        return self.reward(process.metrics()[goal.metric], goal, process.measures["cost"])

    def _estimate(
        self, agent: Controller, transitions: Transitions, rng: Stream, update: int, diagnostics: dict[str, float]
    ) -> Estimate:
        """The gradient of one step, and the way to the next."""
        draw = rng.child(str(update)).integers(len(transitions.choices), (self.minibatch,))[0]
        gradient, value, entropy = self.gradient(agent, transitions.some(draw))

        def then() -> Estimate:
            return self._estimate(agent, transitions, rng, update + 1, diagnostics)

        more = update + 1 < self.updates
        return Estimate(gradient, value, "ppo", {**diagnostics, "entropy": entropy}, then if more else None)

    def gradient(self, agent: Controller, transitions: Transitions) -> tuple[Tree, float, float]:
        """The gradient over transitions, by name; the loss; and the decisions' mean entropy."""
        theta = meta_parameters(agent)
        with torch.enable_grad():
            values = agent.values(transitions.features)
            with torch.no_grad():
                ahead = agent.values(transitions.following) * transitions.goes_on
                targets = transitions.rewards + self.discount * ahead
                advantages = targets - values
            logs = agent.log_probabilities(transitions.features)
            ratio = (logs.gather(1, transitions.choices[:, None])[:, 0] - transitions.log_probabilities).exp()
            bounded = ratio.clamp(1 - self.clip, 1 + self.clip)
            surrogate = torch.minimum(ratio * advantages, bounded * advantages).mean()
            entropy = entropies(logs).mean()
            loss = (values - targets).square().mean() - surrogate - self.entropy * entropy
            grads = torch.autograd.grad(loss, list(theta.values()), allow_unused=True, materialize_grads=True)
        return dict(zip(theta, grads, strict=True)), float(loss.detach()), float(entropy.detach())
