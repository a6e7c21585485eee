"""What a controller sees of a training process: features made of its measures."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from l2o.errors import ArgumentError
from l2o.trees import Tree

BOUND = 5.0
"""Robust features, and logarithms of ratios, stay in [-5, 5]."""


LEAST = 0.5
"""The least deviation that a logarithm is divided by: what varies by less than a factor of 1.6 is not blown up. A
penalty's gradient hardly varies at all, and the least change of it would fill the whole of [-5, 5]."""


class Features(nn.Module, ABC):
    """Turns measures into a row of numbers for each task; what it remembers of a run is in its state.

    It has no meta-parameters: what is fixed from training, as a normaliser, is a buffer.
    """

    width: int
    """How many numbers."""

    @property
    def measures(self) -> tuple[str, ...]:
        """The names of the measures that they are made of, as far as they declare them."""
        return ()

    @abstractmethod
    def config(self) -> dict[str, Any]:
        """The constructor's arguments that rebuild it, in JSON."""

    @abstractmethod
    def begin(self, tasks: int) -> Tree:
        """The state before the first step, leaves `[tasks, ...]`."""

    @abstractmethod
    def forward(self, observation: Tree, state: Tree) -> tuple[Tensor, Tree]:
        """Features `[tasks, width]`, not yet normalised, and the next state."""

    def normalised(self, rows: Tensor) -> Tensor:
        """What the controller's network is given, `[..., width]` for rows of features: the rows, by default."""
        return rows

    def learn(self, rows: Tensor) -> None:
        """Takes rows `[rows, width]` of a training episode into the normaliser, if it has one that is not frozen."""
        del rows


class MeasureFeatures(Features):
    """Measures of the process by name, as they are.

    Args:
        names: of the observation's leaves, for instance "progress" or "loss/mse".

    Example:
        >>> features = MeasureFeatures(["progress", "loss/mse"])
        >>> rows, _ = features({"progress": torch.tensor([0.5]), "loss/mse": torch.tensor([4.0])}, features.begin(1))
        >>> rows
        tensor([[0.5000, 4.0000]])
    """

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__()
        if not names:
            raise ArgumentError("names is empty; a controller needs at least one feature")
        self.names = tuple(names)
        self.width = len(self.names)

    def config(self) -> dict[str, Any]:
        return {"names": list(self.names)}

    @property
    def measures(self) -> tuple[str, ...]:
        return self.names

    def begin(self, tasks: int) -> Tree:
        return {"tasks": torch.zeros(tasks)}

    def forward(self, observation: Tree, state: Tree) -> tuple[Tensor, Tree]:
        return _columns(observation, self.names), state


class PaperFeatures(Features):
    """Progress; each pair's gradient and each loss as last measured; the validation, its average, its average change.

    Gradients are norms divided by the root of the group's size. The averages are exponential, of decay `beta` for each
    validation; before the first, they are the validation at the start, and 0.

    Args:
        pairs: (loss, group) of every gradient.
        losses: names of the losses.
        metric: the validation's name.
        beta: decay of the averages, in [0, 1).

    Example:
        >>> features = PaperFeatures([("mse", "model"), ("l1", "model")], ["mse", "l1"], "validation")
        >>> features.width, features.measures[:2]
        (8, ('progress', 'gradient/mse:model'))

    Source: AutoLoss (Xu et al. 2019), section 4, the features of regression and classification. The decay is given
    nowhere.
    """

    def __init__(
        self, pairs: Sequence[Sequence[str]], losses: Sequence[str], metric: str, *, beta: float = 0.9
    ) -> None:
        super().__init__()
        self.pairs, self.losses, self.metric, self.beta = _pairs(pairs), tuple(losses), metric, _decay(beta)
        self.names = ("progress", *_gradients(self.pairs), *(f"loss/{name}" for name in self.losses))
        self.width = len(self.names) + 3

    def config(self) -> dict[str, Any]:
        return {"pairs": list(map(list, self.pairs)), "losses": list(self.losses), **_metric(self)}

    @property
    def measures(self) -> tuple[str, ...]:
        return (*self.names, f"metric/{self.metric}", "validated")

    def begin(self, tasks: int) -> Tree:
        return {"seen": torch.zeros(tasks, 3), "begun": torch.zeros(tasks)}  # validation, its average, average change

    def forward(self, observation: Tree, state: Tree) -> tuple[Tensor, Tree]:
        state = _averaged(observation, state, self.metric, self.beta)
        return torch.cat([_columns(observation, self.names), state["seen"]], dim=1), state


class PaperGANFeatures(Features):
    """Progress; both gradients and the logarithm of their ratio; both losses and the logarithm of theirs; two metrics.

    In this order: progress, g_G, g_D, ln(g_G / g_D), l_G, l_D, ln(l_G / l_D), inception score, discriminator error,
    where the logarithms are cut to [-5, 5].

    Args:
        generator: name of the loss and the group of the generator.
        discriminator: of the discriminator.
        metrics: names of the inception score and of the discriminator's error.

    Example:
        >>> PaperGANFeatures().width, PaperGANFeatures().measures[-1]
        (9, 'metric/discriminator_error')

    Source: AutoLoss (Xu et al. 2019), section 4. It takes l_G / l_D itself, of a saturating loss.
    """

    def __init__(
        self,
        *,
        generator: str = "generator",
        discriminator: str = "discriminator",
        metrics: Sequence[str] = ("inception_score", "discriminator_error"),
    ) -> None:
        super().__init__()
        self.generator, self.discriminator, self.metrics = generator, discriminator, tuple(metrics)
        players = (generator, discriminator)
        self.names = (
            "progress",
            *(f"gradient/{name}:{name}" for name in players),
            *(f"loss/{name}" for name in players),
            *(f"metric/{name}" for name in self.metrics),
        )
        self.width = len(self.names) + 2

    def config(self) -> dict[str, Any]:
        return {"generator": self.generator, "discriminator": self.discriminator, "metrics": list(self.metrics)}

    @property
    def measures(self) -> tuple[str, ...]:
        return self.names

    def begin(self, tasks: int) -> Tree:
        return {"tasks": torch.zeros(tasks)}

    def forward(self, observation: Tree, state: Tree) -> tuple[Tensor, Tree]:
        row = _columns(observation, self.names)
        progress, g1, g2, l1, l2, *metrics = row.unbind(1)
        return torch.stack([progress, g1, g2, _log_ratio(g1, g2), l1, l2, _log_ratio(l1, l2), *metrics], dim=1), state


class ReleaseFeatures(Features):
    """The features of the public code for an error with a penalty: no progress, everything measured at every step.

    With v and t the validation and the training error, b the average decrease of v from one validation to the next, g
    the gradient norms divided by the root of the group's size:

        (v - t) / t,  1 + ln(|b| + 1e-5) / 12,  min(1, t / 20) - 1/2,  penalty - 1,  g_error - g_penalty

    Args:
        error: name of the error's loss.
        penalty: name of the penalty's loss.
        group: name of the group that both reach.
        metric: the validation's name.
        beta: decay of b, which begins at 0.1.

    Source: the public code of AutoLoss (Xu et al. 2019) for the regression. Its task measures all losses, and
    validates, at every step: `Settings(eager=True, validate_every=1)` does so. The decay is set per experiment.
    """

    width = 5

    def __init__(self, error: str, penalty: str, group: str, metric: str, *, beta: float = 0.9) -> None:
        super().__init__()
        self.error, self.penalty, self.group, self.metric, self.beta = error, penalty, group, metric, _decay(beta)

    def config(self) -> dict[str, Any]:
        return {"error": self.error, "penalty": self.penalty, "group": self.group, **_metric(self)}

    @property
    def measures(self) -> tuple[str, ...]:
        pairs = ((self.error, self.group), (self.penalty, self.group))
        losses = (f"loss/{self.error}", f"loss/{self.penalty}")
        return (*losses, *_gradients(pairs), f"metric/{self.metric}", "validated")

    def begin(self, tasks: int) -> Tree:
        return {"last": torch.zeros(tasks), "decrease": torch.full((tasks,), 0.1), "begun": torch.zeros(tasks)}

    def forward(self, observation: Tree, state: Tree) -> tuple[Tensor, Tree]:
        error, penalty = observation[f"loss/{self.error}"], observation[f"loss/{self.penalty}"]
        value, renewed = observation[f"metric/{self.metric}"], observation["validated"] > 0
        last, decrease, begun = (state[name].to(value) for name in ("last", "decrease", "begun"))
        moved = self.beta * decrease + (1 - self.beta) * (last - value)
        decrease = torch.where(renewed & (begun > 0), moved, decrease)
        g1, g2 = (observation[f"gradient/{name}:{self.group}"] for name in (self.error, self.penalty))
        row = [
            torch.where(error > 1e-6, (value - error) / error.clamp(min=1e-6), 0.0),
            1 + (decrease.abs() + 1e-5).log() / 12,
            (error / 20).clamp(max=1.0) - 0.5,
            penalty - 1,
            g1 - g2,
        ]
        after = {"last": torch.where(renewed, value, last), "decrease": decrease, "begun": torch.ones_like(begun)}
        return torch.stack(row, dim=1), after


class ReleaseGANFeatures(Features):
    """The four features of the public code for GANs: zeros at the start, then

        ln(g_D / g_G),  average of l_G - 1,  average of l_D,  inception score - `typical`

    with averages of decay 0.9 over steps, where l_D is the mean over real and made images.

    Args:
        typical: an inception score that is in the middle of what is met; 8 for MNIST, 6 for CIFAR-10.
        beta: decay of the averages.

    Source: the public code of AutoLoss (Xu et al. 2019).
    """

    width = 4
    names = (
        "gradient/generator:generator",
        "gradient/discriminator:discriminator",
        "loss/generator",
        "loss/discriminator",
        "metric/inception_score",
        "progress",
    )

    def __init__(self, *, typical: float = 8.0, beta: float = 0.9) -> None:
        super().__init__()
        self.typical, self.beta = typical, _decay(beta)

    def config(self) -> dict[str, Any]:
        return {"typical": self.typical, "beta": self.beta}

    @property
    def measures(self) -> tuple[str, ...]:
        return self.names

    def begin(self, tasks: int) -> Tree:
        return {"averages": torch.zeros(tasks, 2), "begun": torch.zeros(tasks)}

    def forward(self, observation: Tree, state: Tree) -> tuple[Tensor, Tree]:
        row = _columns(observation, self.names)
        g1, g2, l1, l2, score, progress = row.unbind(1)
        losses, begun = torch.stack([l1, l2], dim=1), state["begun"].to(row)
        moved = self.beta * state["averages"].to(row) + (1 - self.beta) * losses
        averages = torch.where(begun[:, None] > 0, moved, losses)
        found = torch.stack([_log_ratio(g2, g1), averages[:, 0] - 1, averages[:, 1], score - self.typical], dim=1)
        return torch.where(progress[:, None] > 0, found, 0.0), {"averages": averages, "begun": torch.ones_like(begun)}


class RobustFeatures(Features):
    """Features whose scale carries over to other problems: logarithms, normalised once, and shares of the start.

    In this order: progress, if wanted; ln of each pair's gradient and of each loss, less its mean and divided by its
    deviation, or by 0.5 if that is less; the validation, its average and its average change, divided by the validation
    at the start. Everything is cut to [-5, 5]. Means and deviations are those of the first training episodes and stay
    as they are from then on: on a new problem they must not be learnt again, or the schedule would see every problem as
    the same.

    Args:
        pairs: (loss, group) of every gradient.
        losses: names of the losses; a loss that is not positive counts as very small.
        metric: the validation's name.
        progress: whether the share of the run that is done is a feature. It ties a schedule to the length of its runs.
        beta: decay of the averages, in [0, 1).
        episodes: training episodes that the normaliser learns from.

    Example:
        >>> features = RobustFeatures([("mse", "model"), ("l1", "model")], ["mse", "l1"], "validation")
        >>> features.width, features.measures[-2:]
        (8, ('metric/validation', 'validated'))
    """

    def __init__(
        self,
        pairs: Sequence[Sequence[str]],
        losses: Sequence[str],
        metric: str,
        *,
        progress: bool = True,
        beta: float = 0.9,
        episodes: int = 2,
    ) -> None:
        super().__init__()
        if episodes < 1:
            raise ArgumentError(f"episodes is {episodes}; the normaliser needs at least 1")
        self.pairs, self.losses, self.metric, self.beta = _pairs(pairs), tuple(losses), metric, _decay(beta)
        self.progress, self.episodes = progress, episodes
        self.names = (*_gradients(self.pairs), *(f"loss/{name}" for name in self.losses))
        self.width = int(progress) + len(self.names) + 3
        self.register_buffer("mean", torch.zeros(len(self.names)))
        self.register_buffer("square", torch.ones(len(self.names)))
        self.register_buffer("learnt", torch.zeros(()))

    def config(self) -> dict[str, Any]:
        kept = {"progress": self.progress, "episodes": self.episodes, **_metric(self)}
        return {"pairs": list(map(list, self.pairs)), "losses": list(self.losses), **kept}

    @property
    def measures(self) -> tuple[str, ...]:
        return ("progress", *self.names, f"metric/{self.metric}", "validated")

    def begin(self, tasks: int) -> Tree:
        return {"seen": torch.zeros(tasks, 3), "begun": torch.zeros(tasks), "first": torch.ones(tasks)}

    def forward(self, observation: Tree, state: Tree) -> tuple[Tensor, Tree]:
        fresh = state["begun"] == 0
        after = _averaged(observation, state, self.metric, self.beta)
        first = torch.where(fresh, after["seen"][:, 0], state["first"].to(after["seen"]))
        scale = first.abs().clamp(min=1e-8)[:, None]
        logs = (_columns(observation, self.names).clamp(min=0) + 1e-8).log()
        progress = [observation["progress"][:, None]] if self.progress else []
        return torch.cat([*progress, logs, after["seen"] / scale], dim=1), {**after, "first": first}

    def normalised(self, rows: Tensor) -> Tensor:
        place = int(self.progress)
        mean, square = self.get_buffer("mean"), self.get_buffer("square")
        deviation = (square - mean.square()).clamp(min=LEAST**2).sqrt()
        logs = (rows[..., place : place + len(self.names)] - mean) / deviation
        parts = [rows[..., :place], logs, rows[..., place + len(self.names) :]]
        return torch.cat(parts, dim=-1).clamp(-BOUND, BOUND)

    def learn(self, rows: Tensor) -> None:
        learnt = self.get_buffer("learnt")
        if int(learnt) >= self.episodes:
            return
        place = int(self.progress)
        logs = rows[:, place : place + len(self.names)]
        share = 1 / (int(learnt) + 1)
        for name, found in (("mean", logs.mean(0)), ("square", logs.square().mean(0))):
            buffer = self.get_buffer(name)
            buffer.copy_(buffer + share * (found - buffer))
        learnt += 1


FEATURES: Mapping[str, type[Features]] = {
    kind.__name__: kind
    for kind in (
        MeasureFeatures,
        PaperFeatures,
        PaperGANFeatures,
        ReleaseFeatures,
        ReleaseGANFeatures,
        RobustFeatures,
    )
}
"""The classes that a schedule's file may name."""


def _averaged(observation: Tree, state: Tree, metric: str, beta: float) -> Tree:
    """The state `seen` (the validation, its average, its average change) and `begun` after an observation."""
    name = f"metric/{metric}"
    value = _columns(observation, (name,))[:, 0]
    last, average, change = state["seen"].to(value).unbind(1)
    begun = state["begun"].to(value)
    renewed = observation["validated"]
    averaged = torch.where(begun > 0, beta * average + (1 - beta) * value, value)
    changed = torch.where(begun > 0, beta * change + (1 - beta) * (value - last), torch.zeros_like(value))
    fresh = torch.stack([value, averaged, changed], dim=1)
    seen = torch.where((renewed > 0)[:, None], fresh, torch.stack([last, average, change], dim=1))
    return {"seen": seen, "begun": torch.maximum(begun, renewed)}


def _columns(observation: Tree, names: Sequence[str]) -> Tensor:
    """Leaves side by side, `[tasks, names]`."""
    missing = [name for name in names if name not in observation]
    if missing:
        raise ArgumentError(f"no measure {', '.join(missing)}; the process shows {', '.join(observation)}")
    return torch.stack([observation[name] for name in names], dim=1)


def _log_ratio(numerator: Tensor, denominator: Tensor) -> Tensor:
    """ln of a ratio of numbers that are not negative, in [-5, 5]."""
    return ((numerator.clamp(min=0) + 1e-8) / (denominator.clamp(min=0) + 1e-8)).log().clamp(-BOUND, BOUND)


def _pairs(pairs: Sequence[Sequence[str]]) -> tuple[tuple[str, str], ...]:
    return tuple((loss, group) for loss, group in pairs)


def _gradients(pairs: Sequence[tuple[str, str]]) -> list[str]:
    return [f"gradient/{loss}:{group}" for loss, group in pairs]


def _metric(features: "PaperFeatures | ReleaseFeatures | RobustFeatures") -> dict[str, Any]:
    return {"metric": features.metric, "beta": features.beta}


def _decay(beta: float) -> float:
    if not 0 <= beta < 1:
        raise ArgumentError(f"beta is {beta}; it must lie in [0, 1)")
    return beta
