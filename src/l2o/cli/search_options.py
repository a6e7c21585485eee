"""Options of `l2o train --method guided-policy-search`."""

from dataclasses import dataclass, fields
from typing import Literal

from l2o.cli.options import refuse_unused, rule
from l2o.methods.guided_policy.alternation import BregmanADMM, MirrorDescent
from l2o.methods.guided_policy.cost import NewtonDecrement
from l2o.methods.guided_policy.features import StateFeatures
from l2o.methods.guided_policy.gains import Gains
from l2o.methods.guided_policy.search import Exploration, Fits, GuidedPolicySearch, Regression, Start


@dataclass(frozen=True)
class SearchOptions:
    """How guided policy search improves its controllers, and how the learned optimizer follows them."""

    first_controller: str = "momentum:0.1"
    """Rule with a learning rate, as adagrad:0.1, that the first controller imitates; tune it on the task first."""
    first_factor: float = 1.0
    """Share of that rule's steps that the first controller takes; below 1 there is more to learn."""
    alternation: Literal["admm", "mirror"] = "admm"
    """How controllers and learned optimizer are brought together: Bregman ADMM, or mirror descent."""
    pull: float = 0.01
    """Of admm: how strongly they pull each other at first, as a share of the trust region's multiplier."""
    history: tuple[int, int, int] = (5, 6, 5)
    """How many relative changes of the loss, gradients and steps controllers see, five steps apart; the paper has
    25 26 25."""
    fit_window: int = 10
    """Half width of the windows that local models are fitted to, in steps."""
    trust: float = 0.5
    """Nats by which a controller may change in an iteration, per step and coordinate."""
    widest: float = 1.0
    """How many times --trust the trust region may become, as long as new controllers are better."""
    gains_by_trial: bool = True
    """Try gains larger and smaller on tasks, rather than leave them to the models: about 28 trials an iteration."""
    jitter: float = 0.3
    """Deviation of the logarithm of each trajectory's gain."""
    coordinates: int = 64
    """Of each group that models are fitted to, at most; the paper preset of the experiments has 128."""
    examples: int | None = 2048
    """That the objective's gradient is a mean over; None for all."""
    passes: int = 2
    """Of controlling and regressing in each iteration."""
    regression_steps: int = 300
    """Steps of the meta-optimizer in each pass."""

    def refuse(self, reason: str) -> None:
        """An error if one of them is not at its default."""
        refuse_unused(self, *(field.name for field in fields(self)), reason=reason)

    def made(self) -> GuidedPolicySearch:
        """The method that the options describe."""
        if self.alternation != "admm":
            refuse_unused(self, "pull", reason="without --alternation admm")
        return GuidedPolicySearch(
            features=StateFeatures(self.history),
            alternation=BregmanADMM(share=self.pull) if self.alternation == "admm" else MirrorDescent(),
            exploration=Exploration(jitter=self.jitter, coordinates=self.coordinates, examples=self.examples),
            fits=Fits(
                cost=NewtonDecrement(self.fit_window),
                window=self.fit_window,
                trust=self.trust,
                widest=self.widest,
                gains=Gains() if self.gains_by_trial else None,
            ),
            regression=Regression(passes=self.passes, steps=self.regression_steps),
            start=Start(rule(self.first_controller), factor=self.first_factor),
        )
