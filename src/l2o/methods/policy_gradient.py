"""REINFORCE: a schedule's decisions are weighted by how much better than usual their run ended."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal, Protocol

import torch
from torch import Tensor

from l2o.agent import meta_parameters
from l2o.errors import ArgumentError
from l2o.methods.base import Estimate, Method, Trajectory
from l2o.processes.replicated_losses import ReplicatedLosses
from l2o.rng import Stream
from l2o.rollout import Record, States, rollout
from l2o.schedules.base import ScheduleDrives
from l2o.schedules.controllers import Controller
from l2o.schedules.rewards import LogReward, Reward, describe, rewards
from l2o.schedules.runs import outcomes
from l2o.trees import Tree

Time = Literal["mean", "sum"]
"""Whether a run's decisions are averaged or summed: with Adam as the meta-optimizer, a matter of scale."""


class Baseline(Protocol):
    """What a reward is compared with, and the bound on what is left of it."""

    @property
    def clip(self) -> float | None: ...

    def advantages(self, rewards: Tensor, memory: Tree) -> tuple[Tensor, Tree]:
        """Advantages `[tasks]` of rewards `[tasks]`, and what to remember for the next batch."""
        ...


@dataclass(frozen=True)
class LeaveOneOut:
    """Each run's reward against the mean of the others': unbiased, for two runs or more.

    Args:
        standardise: divide by the standard deviation of the rewards, so that their unit does not matter.
        clip: bound on an advantage, or None.
    """

    standardise: bool = True
    clip: float | None = 3.0

    def advantages(self, rewards: Tensor, memory: Tree) -> tuple[Tensor, Tree]:
        _check(rewards)
        if len(rewards) < 2:
            raise ArgumentError("1 run has no others to be compared with; roll out at least 2, or use MovingAverage")
        others = (rewards.sum() - rewards) / (len(rewards) - 1)
        found = rewards - others
        if self.standardise:
            found = found / rewards.std().clamp(min=1e-12) if bool(rewards.std() > 0) else torch.zeros_like(found)
        return _clipped(found, self.clip, 0.0), memory


@dataclass(frozen=True)
class MovingAverage:
    """Rewards against B, where B = decay B + (1 - decay) reward afterwards; the first reward is the first B.

    Args:
        decay: in [0, 1).
        clip: bound on an advantage, or None.
        least: an advantage that is not 0 is at least so large, its sign kept: 1 for the published GANs.

    Source: AutoLoss (Xu et al. 2019), equations 2 and 3. Its public code renews B before it subtracts it.
    """

    decay: float = 0.8
    clip: float | None = 20.0
    least: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.decay < 1:
            raise ArgumentError(f"decay is {self.decay}; it must lie in [0, 1)")

    def advantages(self, rewards: Tensor, memory: Tree) -> tuple[Tensor, Tree]:
        _check(rewards)
        baseline = memory.get("baseline", rewards[0])
        value = baseline
        for reward in rewards:
            value = self.decay * value + (1 - self.decay) * reward
        return _clipped(rewards - baseline, self.clip, self.least), {"baseline": value}


@dataclass(frozen=True)
class StepReward:
    """The public code's reward of single steps, which the paper does not have.

        kappa sign(d) min(cap, sqrt(|d| / (|b| + 1e-5)))

    for the decrease d of the validation by a step, and its average b of decay `beta`, which begins at 0.1. Each step
    is credited with its own reward and that of the whole run.

    Args:
        kappa: 1 for the published regression, 0.1 for classification.
        cap: bound of the root.
        beta: decay of the average.

    Source: the public code of AutoLoss (Xu et al. 2019); it validates at every step, which `validate_every=1` does.
    Steps without a validation get nothing here.
    """

    kappa: float = 1.0
    cap: float = 20.0
    beta: float = 0.9

    def begin(self, tasks: int) -> Tree:
        """Its state before the first step."""
        return {"last": torch.full((tasks,), torch.nan), "decrease": torch.full((tasks,), 0.1)}

    def __call__(self, observation: Tree, metric: str, state: Tree) -> tuple[Tensor, Tree]:
        """Rewards `[tasks]` of the step that led to an observation, and the next state."""
        value, renewed = observation[f"metric/{metric}"], observation["validated"] > 0
        last = state["last"].to(value)
        decrease = torch.where(last.isnan(), 0.1, last - value)
        average = self.beta * state["decrease"].to(value) + (1 - self.beta) * decrease
        size = (decrease.abs() / (average.abs() + 1e-5)).sqrt().clamp(max=self.cap)
        reward = torch.where(renewed, self.kappa * decrease.sign() * size, 0.0)
        after = {
            "last": torch.where(renewed, value, last),
            "decrease": torch.where(renewed, average, state["decrease"]),
        }
        return reward, after


@dataclass(frozen=True, eq=False)
class Decided:
    """What a schedule saw and did in a batch of runs.

    Args:
        features: `[tasks, steps, width]`.
        choices: `[tasks, steps]`, counted from 0.
        weights: `[tasks, steps]`, 1 for a decision of a run that was alive, 0 for others.
    """

    features: Tensor
    choices: Tensor
    weights: Tensor

    @classmethod
    def none(cls, tasks: int, controller: Controller) -> "Decided":
        """Before the first decision."""
        parameter = next(controller.parameters())
        return cls(
            torch.zeros(tasks, 0, controller.features.width, dtype=parameter.dtype),
            torch.zeros(tasks, 0, dtype=torch.int64),
            torch.zeros(tasks, 0, dtype=parameter.dtype),
        )

    @classmethod
    def of(cls, record: Record) -> "Decided":
        """The decisions of a window."""
        features = torch.stack([action["features"] for action in record.actions], dim=1)
        choices = torch.stack([action["choice"] for action in record.actions], dim=1)
        return cls(features, choices, record.alive[:, :-1].to(features.dtype))

    def followed_by(self, other: "Decided") -> "Decided":
        """Both, one after the other."""
        pairs = zip(vars(self).values(), vars(other).values(), strict=True)
        return Decided(*(torch.cat([a.to(b), b], dim=1) for a, b in pairs))

    def tree(self) -> Tree:
        """Everything in it, for a checkpoint."""
        return dict(vars(self))

    def log_probabilities(self, controller: Controller) -> Tensor:
        """Of what was chosen, `[tasks, steps]`, with the graph to the controller's meta-parameters."""
        return controller.log_probabilities(self.features).gather(2, self.choices[..., None])[..., 0]


def policy_gradient(
    controller: Controller, decided: Decided, advantages: Tensor, *, time: Time = "mean", entropy: float = 0.0
) -> Tree:
    """The gradient that a meta-optimizer descends: minus the policy gradient.

        - mean over runs of (mean or sum over steps of (advantage x grad log p(choice) + entropy x grad H(p)))

    The replay: the controller's network runs again over the features that it decided by. Decisions after a run died do
    not count.

    Args:
        controller: whose decisions they were.
        decided: what it saw and did.
        advantages: of each run, `[tasks]`, or of each decision, `[tasks, steps]`.
        time: over steps; the mean is over all steps of the episode, also of runs that ended earlier.
        entropy: weight of a bonus on the entropy of the decisions.

    Returns:
        One tensor for each meta-parameter, by name; zero for those of a critic.

    Source: Williams 1992.
    """
    weights = decided.weights / (len(decided.choices) * (decided.choices.shape[1] if time == "mean" else 1))
    theta = meta_parameters(controller)
    with torch.enable_grad():
        logs = controller.log_probabilities(decided.features)  # [tasks, steps, choices]
        taken = logs.gather(2, decided.choices[..., None])[..., 0]
        credit = advantages[:, None] if advantages.ndim == 1 else advantages
        aim = (weights * credit * taken).sum()
        if entropy:
            aim = aim + entropy * (weights * entropies(logs)).sum()
        grads = torch.autograd.grad(-aim, list(theta.values()), allow_unused=True, materialize_grads=True)
    return dict(zip(theta, grads, strict=True))


def entropies(logs: Tensor) -> Tensor:
    """Of distributions given as log-probabilities `[..., choices]`, in nats: `[...]`."""
    return -(logs.exp() * logs.clamp(min=-1e9)).sum(-1)


class PolicyGradient(Method[Controller, ReplicatedLosses]):
    """REINFORCE over whole runs: one estimate when all of them have ended.

    Args:
        reward: what a run is worth.
        baseline: what it is compared with: `LeaveOneOut()`, the working default, or `MovingAverage()`, as published.
        time: how a run's decisions are added up.
        entropy: weight of a bonus on the decisions' entropy.
        step_reward: credits single steps too, or None.

    Example:
        >>> import l2o
        >>> family = l2o.QuadraticRegression(0.4)
        >>> controller = l2o.Controller(l2o.MeasureFeatures(["progress"]), choices=2)
        >>> plan = l2o.Plan(
        ...     trajectories=1, tasks=2, horizon=l2o.ConstantHorizon(6, 6), validation_tasks=1, validation_last=1
        ... )
        >>> settings = l2o.Settings({"model": l2o.Adam(1e-3)}, common=True)
        >>> l2o.train_schedule(controller, family, settings, PolicyGradient(), plan).finished
        True

    Source: AutoLoss (Xu et al. 2019), equations 2 and 3, with one run for each update; 8 to 32 runs and the mean of the
    others as baseline learn in a tenth of the runs.
    """

    moments = ("policy gradient",)
    reads: ClassVar[frozenset[str]] = frozenset({"loss"})

    def __init__(
        self,
        reward: Reward | None = None,
        baseline: Baseline | None = None,
        *,
        time: Time = "mean",
        entropy: float = 0.0,
        step_reward: StepReward | None = None,
    ) -> None:
        if time not in ("mean", "sum"):
            raise ArgumentError(f"time is {time!r}; choose 'mean' or 'sum'")
        if not 0 <= entropy < float("inf"):
            raise ArgumentError(f"entropy is {entropy}; it must be finite and not negative")
        self.reward = LogReward() if reward is None else reward
        self.baseline = LeaveOneOut() if baseline is None else baseline
        self.time: Time = time
        self.entropy, self.step_reward = entropy, step_reward
        self.name = f"policy gradient, {type(self.baseline).__name__}"

    def describe(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "reward": describe(self.reward),
            "baseline": {"kind": type(self.baseline).__name__, **vars(self.baseline)},
            "time": self.time,
            "entropy": self.entropy,
            "step_reward": None if self.step_reward is None else asdict(self.step_reward),
        }

    def begin(
        self, agent: Controller, process: ReplicatedLosses, rng: Stream, /, *, stage: int = 0
    ) -> Trajectory[ReplicatedLosses]:
        del stage
        tasks = len(rng.tasks)
        states: States = {**ScheduleDrives(agent, rng).begin(), "episode": Decided.none(tasks, agent).tree()}
        if self.step_reward is not None:
            states |= {"step reward": {"credit": torch.zeros(tasks, 0), **self.step_reward.begin(tasks)}}
        return Trajectory(process, states)

    def window(
        self, agent: Controller, trajectory: Trajectory[ReplicatedLosses], steps: int, /
    ) -> tuple[Estimate | None, Trajectory[ReplicatedLosses]]:
        process, states = trajectory.process, trajectory.states
        driver = ScheduleDrives(agent, process.rng)
        driving = {name: states[name] for name in ("agent", "decisions")}
        record = rollout(process, driver, driving, steps, record=agent.reads)
        decided = Decided(**states["episode"]).followed_by(Decided.of(record))
        after = {**states, **record.exit, "episode": decided.tree()}
        if self.step_reward is not None:
            after |= {"step reward": self._credited(record, states["step reward"])}
        moved = Trajectory(record.process, after)
        if not ended(record.process):
            return None, moved
        estimate, memory = self._estimate(agent, decided, moved)
        return estimate, Trajectory(record.process, {**after, "memory": memory})

    def _credited(self, record: Record, state: Tree) -> Tree:
        assert self.step_reward is not None
        credits, metric = [state["credit"]], record.process.family.goal.metric
        for seen in record.observations[1:]:
            found, state = self.step_reward(seen, metric, state)
            credits.append(found[:, None])
        return {**state, "credit": torch.cat(credits, dim=1)}

    def _estimate(
        self, agent: Controller, decided: Decided, trajectory: Trajectory[ReplicatedLosses]
    ) -> tuple[Estimate, Tree]:
        process, states = trajectory.process, trajectory.states
        earned = rewards(process, self.reward)
        advantages, memory = self.baseline.advantages(earned, states.get("memory", {}))
        credit = advantages
        if self.step_reward is not None:
            credit = advantages[:, None] + states["step reward"]["credit"]
        gradient = policy_gradient(agent, decided, credit.to(decided.weights), time=self.time, entropy=self.entropy)
        with torch.no_grad():
            uncertainty = float((decided.weights * entropies(agent.log_probabilities(decided.features))).sum())
        agent.features.learn(decided.features[decided.weights > 0])
        clip = self.baseline.clip
        diagnostics = {
            "reward": float(earned.mean()),
            "reward_deviation": float(earned.std()) if len(earned) > 1 else 0.0,
            "clipped": float((advantages.abs() >= clip).double().mean()) if clip is not None else 0.0,
            "entropy": uncertainty / max(float(decided.weights.sum()), 1.0),
            **shares(decided, process),
            **outcomes(process),
        }
        return Estimate(gradient, -float(earned.mean()), "policy gradient", diagnostics), memory


def ended(process: ReplicatedLosses) -> bool:
    """Whether a batch of runs is over."""
    return process.step >= process.steps or not bool(process.survivors.any())


def shares(decided: Decided, process: ReplicatedLosses) -> Mapping[str, float]:
    """How often each choice was taken, of all decisions of runs that were alive."""
    total = max(float(decided.weights.sum()), 1.0)
    return {
        f"share of {choice.name}": float((decided.weights * (decided.choices == number)).sum()) / total
        for number, choice in enumerate(process.family.choices)
    }


def _check(rewards: Tensor) -> None:
    if not bool(torch.isfinite(rewards).all()):
        raise ArgumentError(f"rewards are {rewards.tolist()}; a run that diverged needs a finite reward of its own")


def _clipped(advantages: Tensor, clip: float | None, least: float) -> Tensor:
    sizes = advantages.abs().clamp(min=least, max=clip)
    return advantages.sign() * sizes
