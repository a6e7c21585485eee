"""What the figures share: trained policies, tuned baselines, trials; each computed once and kept in a file.

Everything lies in `results/guided-policy-search/shared/PRESET`: `weights/NAME-SEED.safetensors` with its card and the
events of its meta-training, `tuning/NAME.json`, `trials/PANEL/NAME.l2o`. What is there is not computed again, unless
what it was made from has changed. Checkpoints lie in the work folder.
"""

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from l2o import checkpoint
from l2o.curves import Curves, held
from l2o.errors import InterruptedRunError
from l2o.evaluation.statistics import Array, Interval, crossed_bootstrap
from l2o.experiments.guided_policy_search.baselines import BASELINES, Runner, Tuned, mean_objective, rule, tune
from l2o.experiments.guided_policy_search.presets import (
    PRESETS,
    family,
    plan,
    search,
    training_family,
    true_objective,
)
from l2o.experiments.study import slug
from l2o.horizons import ConstantHorizon
from l2o.meta_optimizer import MetaAdam
from l2o.metatrain import metatrain
from l2o.methods.base import OptimizerMethod
from l2o.methods.meta_loss import MetaLoss
from l2o.optimizers.architectures import load
from l2o.optimizers.base import LearnedOptimizer
from l2o.optimizers.dm import L2ODM
from l2o.optimizers.handcrafted import Momentum
from l2o.optimizers.predicted_step import PredictedStep
from l2o.outer_loop import Plan
from l2o.progress import ProgressBar
from l2o.rng import Stream
from l2o.sweeps import run_all
from l2o.weights import load_card, save

POLICY = "predicted step descent"
UNROLLED = "LSTM by gradient descent"
"""The optimizer of Andrychowicz et al. 2016, meta-trained through unrolled steps: L2LBGDBGD in the paper."""

RATES = (1e-3, 3e-4)
"""Meta learning rates that it is trained with; validation chooses."""

_KIND = "trials"


@dataclass(frozen=True, eq=False)
class Trials:
    """What one optimizer did on one data set.

    Args:
        losses: the true objective, `[seeds, runs, points]`, held at ten times its start where a run diverges.
        diverged: `[seeds, runs]` bool.
        every: steps between points.
        evaluations: gradient evaluations of a run.
        loss_evaluations: evaluations of the loss alone, of a line search.
        seconds: wall time of everything.
    """

    losses: Array
    diverged: Array
    every: int
    evaluations: int
    loss_evaluations: int
    seconds: float

    @classmethod
    def of(cls, curves: Curves, seconds: float) -> "Trials":
        """From the curves of one seed."""
        assert curves.true_losses is not None
        assert curves.true_every is not None
        kept, diverged = held(curves.true_losses)
        return cls(
            kept.numpy()[None],
            diverged.numpy()[None],
            curves.true_every,
            curves.evaluations,
            curves.loss_evaluations,
            seconds,
        )

    @classmethod
    def stack(cls, rows: Sequence["Trials"]) -> "Trials":
        """Rows of several seeds as one."""
        return replace(
            rows[0],
            losses=np.concatenate([row.losses for row in rows]),
            diverged=np.concatenate([row.diverged for row in rows]),
            seconds=sum(row.seconds for row in rows),
        )

    @property
    def steps(self) -> Array:
        """Of the points."""
        return self.every * np.arange(self.losses.shape[2])

    @property
    def area(self) -> Array:
        """Mean over the points: `[seeds, runs]`."""
        return self.losses.mean(2)

    @property
    def final(self) -> Array:
        """Mean over the last twentieth of the points: `[seeds, runs]`."""
        return self.losses[..., -max(1, self.losses.shape[2] // 20) :].mean(2)

    @property
    def swing(self) -> Array:
        """The largest ratio of a point to the lowest before it, `[seeds, runs]`: 1 for a curve that only falls."""
        return (self.losses / np.minimum.accumulate(self.losses, axis=2)).max(2)

    def at(self, step: int) -> Array:
        """At one step, `[seeds, runs]`."""
        return self.losses[..., step // self.every]

    def band(self) -> dict[float, Interval]:
        """The mean curve with its 95 % interval."""
        return {
            float(step): crossed_bootstrap(self.losses[..., place], resamples=500)
            for place, step in enumerate(self.steps)
        }

    def save(self, path: Path, identity: Mapping[str, Any]) -> None:
        """Writes everything to one file."""
        leaves = {name: torch.from_numpy(getattr(self, name)) for name in ("losses", "diverged")}
        plain = {name: getattr(self, name) for name in ("every", "evaluations", "loss_evaluations", "seconds")}
        checkpoint.write(path, leaves, {"identity": identity, **plain}, kind=_KIND)

    @classmethod
    def load(cls, path: Path, identity: Mapping[str, Any]) -> "Trials | None":
        """What `save` wrote; None if it is of other trials, or not there."""
        if not path.exists():
            return None
        leaves, about = checkpoint.read(path, kind=_KIND)
        if about.pop("identity") != json.loads(json.dumps(identity)):
            return None
        return cls(**{name: leaf.numpy() for name, leaf in leaves.items()}, **about)


@dataclass(frozen=True)
class Panel:
    """A data set, a network, a number of steps.

    Args:
        data: its name.
        large: whether the network is the large one.
        batch: images in a minibatch.
        steps: inner steps.
        policies: how many of the trained policies are tried; None for all.
    """

    data: str
    large: bool = False
    batch: int = 64
    steps: int = 400
    policies: int | None = None

    @property
    def folder(self) -> str:
        """Of its trials."""
        return f"{slug(self.data)}-{'large' if self.large else 'small'}-{self.batch}-{self.steps}"


class Shared:
    """The shared results of one preset.

    Args:
        preset: "smoke", "laptop" or "paper".
        results: folder of all results.
        work: folder of all checkpoints.
    """

    def __init__(self, preset: str, results: Path, work: Path, *, console: Console | None = None) -> None:
        self.preset, self.settings = preset, PRESETS[preset]
        self._results, self._work = results, work
        self.folder = results / "guided-policy-search" / "shared" / preset
        self.work = work / "guided-policy-search" / "shared" / preset
        self.console = console or Console()

    def __reduce__(self) -> tuple[Any, ...]:
        """Sent to a worker, it makes a console of its own there."""
        return Shared, (self.preset, self._results, self._work)

    def panel(self, names: Sequence[str], panel: Panel) -> dict[str, Trials]:
        """The trials of several; what has to be trained, tuned and tried for them is spread over the workers."""
        if POLICY in names:
            _ = self.momentum  # every policy's first controller imitates it
        seeds = self.settings.policies[: panel.policies] if POLICY in names else ()
        learned: dict[str, Callable[[], Any]] = {f"policy-{seed}": partial(self.policy, seed) for seed in seeds}
        found = {UNROLLED: partial(getattr, self, "unrolled")} if UNROLLED in names else {}
        tuned = {name: partial(self.tuned, name) for name in names if name in BASELINES}
        run_all({**learned, **found, **tuned}, title="training and tuning")
        return run_all({name: partial(self.trials, name, panel) for name in names}, title=f"trials on {panel.data}")

    # ---- what is trained

    def policy(self, seed: int) -> LearnedOptimizer:
        """The policy of a meta-training seed."""
        fresh = PredictedStep(hidden=self.settings.hidden, seed=seed)
        return self.trained(f"policy-{seed}", fresh, search(self.preset, self.momentum), plan(self.preset, seed))

    @cached_property
    def unrolled(self) -> LearnedOptimizer:
        """The LSTM trained by gradient descent, with the meta learning rate that validates better."""
        settings, found = self.settings, {}
        for rate in RATES:
            name = f"unrolled-{rate:g}"
            made = Plan(
                trajectories=settings.unrolled,
                horizon=ConstantHorizon(settings.tried, math.gcd(20, settings.tried)),
                meta_optimizer=MetaAdam(rate),
                validate_every=max(1, settings.unrolled // 10),
                validation_tasks=settings.tuning_runs,
                validation_last=settings.tried,
                seed=1,
            )
            optimizer = self.trained(name, L2ODM.andrychowicz(seed=1), MetaLoss(), made)
            found[min(value for _, value in load_card(self.weights(name)).curve)] = optimizer
        return found[min(found)]

    def weights(self, name: str) -> Path:
        """Where trained weights lie."""
        return self.folder / "weights" / f"{name}.safetensors"

    def trained(self, name: str, fresh: LearnedOptimizer, method: OptimizerMethod, made: Plan) -> LearnedOptimizer:
        """Meta-trains on the training task, if nobody has yet.

        Raises:
            InterruptedRunError: a signal stopped it; everything so far is checkpointed.
        """
        path, directory = self.weights(name), self.work / name
        if not path.exists():
            self.console.print(f"meta-training [bold]{name}[/]; checkpoints in {directory}")
            with ProgressBar(made.trajectories, name) as bar:
                found = metatrain(
                    fresh, training_family(self.preset), method, made, directory=directory, listeners=[bar]
                )
            if not found.finished:
                raise InterruptedRunError(f"stopped; the same command goes on from {directory}")
            save(found.optimizer, path, found.card)
            checkpoint.write_json(
                path.with_suffix(".json"), {"seconds": found.seconds, "iterations": _iterations(directory)}
            )
        return load(path)

    def history(self, name: str) -> dict[str, Any]:
        """Seconds of a meta-training that is done, and the numbers of its iterations and validations."""
        return json.loads(self.weights(name).with_suffix(".json").read_text(encoding="utf-8"))

    # ---- what is tuned

    @property
    def momentum(self) -> Momentum:
        """Tuned momentum: what the first controller imitates."""
        found = self.tuned("momentum")
        return Momentum(found.rate, momentum=float(found.variant.removeprefix("momentum ")))

    def tuned(self, name: str) -> Tuned:
        """A baseline's constants, tuned on the meta-training task."""
        settings, made = self.settings, training_family(self.preset)
        baseline = replace(BASELINES[name], grid=BASELINES[name].grid[:: settings.grid_every])
        identity = {
            "family": made.name,
            "steps": settings.tried,
            "runs": settings.tuning_runs,
            "variants": list(baseline.variants),
            "grid": [f"{rate:.6g}" for rate in baseline.grid],
        }
        path = self.folder / "tuning" / f"{name.replace(' ', '-').lower()}.json"
        if path.exists():
            content = json.loads(path.read_text(encoding="utf-8"))
            if content.pop("identity") == identity:
                return Tuned(**content)
        with self.console.status(f"tuning {name}"):
            found = tune(
                baseline,
                made,
                Stream(settings.seed, ("tuning",), tasks=range(settings.tuning_runs)),
                steps=settings.tried,
                true_objective=true_objective(self.preset, made),
            )
        self.console.print(f"tuned {name}: {found.variant} learning rate {found.rate:.4g}, J {found.score:.4f}")
        checkpoint.write_json(path, {"identity": identity, **asdict(found)})
        return found

    # ---- what is tried

    def trials(self, name: str, panel: Panel) -> Trials:
        """The trials of a baseline, of the policy, or of the LSTM that is trained by gradient descent, by name."""
        if name == POLICY:
            rows = [
                self._trials(f"policy-{seed}", rule(self.policy(seed)), panel, self._digest(f"policy-{seed}"))
                for seed in self.settings.policies[: panel.policies]
            ]
            return Trials.stack(rows)
        if name == UNROLLED:
            return self._trials("unrolled", rule(self.unrolled), panel, checkpoint.digest(self.unrolled.state_dict()))
        found = self.tuned(name)
        made = BASELINES[name].variants[found.variant](found.rate)
        return self._trials(name.replace(" ", "-").lower(), made, panel, f"{found.variant} {found.rate:.6g}")

    def _digest(self, name: str) -> str:
        return load_card(self.weights(name)).sha256

    def _trials(self, name: str, run: Runner, panel: Panel, made_from: str) -> Trials:
        settings = self.settings
        tried = family(self.preset, panel.data, large=panel.large, batch=panel.batch)
        recorded = true_objective(self.preset, tried, large=panel.large)
        identity = {
            "made from": made_from,
            "family": tried.name,
            "steps": panel.steps,
            "runs": settings.runs,
            "true objective": asdict(recorded),
        }
        path = self.folder / "trials" / panel.folder / f"{name}.l2o"
        kept = Trials.load(path, identity)
        if kept is None:
            rng = Stream(settings.seed, ("reporting", panel.data), tasks=range(settings.runs))
            begin = time.perf_counter()
            with self.console.status(f"{name} on {tried.name}, {panel.steps} steps"):
                curves = run(tried, rng, steps=panel.steps, true_objective=recorded)
            kept = Trials.of(curves, time.perf_counter() - begin)
            self.console.print(f"{name} on {tried.name}: mean objective {mean_objective(curves):.4f}")
            kept.save(path, identity)
        return kept


def _iterations(directory: Path) -> list[dict[str, Any]]:
    """The events of a meta-training that tell about iterations, and its validations."""
    lines = (directory / "events.jsonl").read_text(encoding="utf-8").splitlines()
    events = [json.loads(line) for line in lines]
    return [event for event in events if "pass" in event or event["kind"] == "validation"]
