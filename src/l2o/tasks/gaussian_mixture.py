"""A mixture of Gaussians fitted by its evidence lower bound: what expectation maximisation alternates."""

import math

from torch import Tensor

from l2o.errors import ArgumentError
from l2o.rng import Stream
from l2o.tasks.alternate import AlternateFamily, Choice, Goal, Pair
from l2o.tasks.splits import Purpose, parts_for
from l2o.trees import Tree

_DIMENSIONS = 2
_MODEL = ("means", "log_variances", "weights")


class GaussianMixtureEM(AlternateFamily):
    """K Gaussians with diagonal covariances in the plane, and a distribution over them for every training point.

        elbo = (1/N) sum_n sum_k q_nk (log q_nk - log w_k - log N(x_n; mu_k, diag v_k)),   the negative bound, per point
        q_n = softmax(responsibilities_n), w = softmax(weights), v_k = exp(log_variances_k)

    The loss is at least the negative log-likelihood, and equal to it where q is the posterior. Choices are a gradient
    step on the responsibilities, one on the model, and the exact E-step, which sets q to the posterior and is charged
    as several gradient steps. Responsibilities are free numbers for each point, not a network's output, so that the
    exact step exists; their gradient is 1/N of a point's own, which Adam does not see and SGD does.

    Each task draws a mixture of its own and points from it: K means from N(0, spread^2), deviations uniform in [0.5,
    1.5), weights (1 + u) / sum, u uniform in [0, 1). The start has means at K of the training points, variances as of
    all of them, equal weights, and responsibilities from N(0, 0.1^2). Parameters are `responsibilities` `[points, K]`,
    `means` and `log_variances` `[K, 2]`, `weights` `[K]`. Metrics are `validation` and `test`, the negative
    log-likelihood of a held-out point, `validation_excess` and `test_excess`, what they are above that of the mixture
    from which the points were drawn, and `train`, the negative log-likelihood of the training points.

    The metric of the goal is positive in practice, so a reward may take its logarithm: no deviation is below 0.5, so
    the entropy of the drawn mixture, which no model's expected value is below, is at least 1.45 nats.

    Args:
        purpose: "controller" trains and validates on the parts that schedules are trained with, "model" on those that
            models are trained with under a schedule that is done. A task's mixture and test points are the same.
        components: K, at least 2.
        points: of the training part.
        validation_size: points of the validation part.
        test_size: points of the test part.
        spread: deviation of the means, positive; at 3 most components overlap somewhat.
        exact_cost: of the exact E-step; a gradient step costs 1.

    Example:
        >>> [choice.name for choice in GaussianMixtureEM().choices]
        ['responsibilities', 'model', 'exact E-step']

    Source: expectation maximisation as alternating ascent of one bound, Neal and Hinton 1998; as an instance for
    schedules, AutoLoss (Xu et al. 2019), section 3.
    """

    def __init__(
        self,
        *,
        purpose: Purpose = "controller",
        components: int = 3,
        points: int = 200,
        validation_size: int = 200,
        test_size: int = 1000,
        spread: float = 3.0,
        exact_cost: float = 5.0,
    ) -> None:
        if components < 2 or points < components or min(validation_size, test_size) < 1:
            raise ArgumentError(
                f"components {components}, points {points}, validation_size {validation_size}, test_size {test_size}; "
                "need at least 2 components, a training point for each, and 1 point to validate and test on"
            )
        if not 0 < spread < float("inf"):
            raise ArgumentError(f"spread is {spread}; it must be positive and finite")
        self._used = parts_for(purpose)
        super().__init__(
            losses=("elbo",),
            groups={"responsibilities": ("responsibilities",), "model": _MODEL},
            choices=(
                Choice("responsibilities", (("elbo", "responsibilities"),)),
                Choice("model", (("elbo", "model"),)),
                Choice("exact E-step", update="exact E-step", cost=exact_cost),
            ),
            goal=Goal("validation"),
            updates=("exact E-step",),
        )
        self.name = f"gaussian-mixture-{components}-{points}-spread-{spread:g}-{purpose}"
        self.components, self.points, self.spread = components, points, spread
        self.sizes = {"train": points, "validation": validation_size, "test": test_size}

    def sample(self, rng: Stream) -> Tree:
        k = self.components
        means = self.spread * rng.child("means").normal((k, _DIMENSIONS))
        deviations = rng.child("deviations").uniform((k, _DIMENSIONS), low=0.5, high=1.5)
        shares = 1 + rng.child("weights").uniform((k,))
        weights = shares / shares.sum(1, keepdim=True)
        truth = {"means": means, "log_variances": 2 * deviations.log(), "weights": weights.log()}
        instance = {f"true_{name}": leaf for name, leaf in truth.items()}
        for role, part in self._used.items():
            stream, size = rng.child(part), self.sizes[role]
            draws = stream.child("component").uniform((size,))  # [tasks, points]
            passed = (draws[:, :, None] >= weights.cumsum(1)[:, None]).sum(2)
            component = passed.clamp(max=k - 1)[:, :, None].expand(-1, -1, _DIMENSIONS)
            noise = stream.child("noise").normal((size, _DIMENSIONS))
            instance[role] = means.gather(1, component) + deviations.gather(1, component) * noise
            instance[f"{role}_floor"] = _negative_log_likelihood(truth, instance[role])
        return instance

    def init(self, instance: Tree, rng: Stream) -> Tree:
        train = instance["train"]  # [tasks, points, 2]
        order = rng.child("means").uniform((self.points,)).argsort(1)[:, : self.components].to(train.device)
        variances = train.var(1, keepdim=True).log().expand(-1, self.components, -1)
        return {
            "responsibilities": 0.1 * rng.child("responsibilities").normal((self.points, self.components)),
            "means": train.gather(1, order[:, :, None].expand(-1, -1, _DIMENSIONS)),
            "log_variances": variances.contiguous(),
            "weights": train.new_zeros(len(train), self.components),
        }

    def loss_named(self, name: str, params: Tree, instance: Tree, batch: Tree) -> Tensor:
        logs = params["responsibilities"].log_softmax(-1)
        return (logs.exp() * (logs - log_joint(params, instance["train"]))).sum(-1).mean()

    def pair_value_and_grad(self, pair: Pair, params: Tree, instance: Tree, batch: Tree) -> tuple[Tensor, Tree]:
        """In closed form."""
        points = instance["train"]  # [tasks, points, 2]
        logs = params["responsibilities"].log_softmax(-1)  # [tasks, points, K]
        q, gaps = logs.exp(), logs - log_joint(params, points)
        bounds = (q * gaps).sum(2, keepdim=True)  # [tasks, points, 1]
        share = q / points.shape[1]
        values = bounds[:, :, 0].mean(1)
        if pair[1] == "responsibilities":
            return values, {"responsibilities": share * (gaps - bounds)}
        variances = params["log_variances"].exp()  # [tasks, K, 2]
        total = share.sum(1)  # [tasks, K]
        first, second = share.mT @ points, share.mT @ points.square()  # [tasks, K, 2]: moments of each component
        means = params["means"]
        squares = second - 2 * means * first + means.square() * total[:, :, None]
        return values, {
            "means": (means * total[:, :, None] - first) / variances,
            "log_variances": (total[:, :, None] - squares / variances) / 2,
            "weights": params["weights"].softmax(1) - total,
        }

    def updated(self, name: str, params: Tree, instance: Tree, batch: Tree) -> Tree:
        """The exact E-step: the responsibilities are those of the posterior."""
        return {"responsibilities": log_joint(params, instance["train"]).log_softmax(-1)}

    def metrics(self, params: Tree, instance: Tree) -> Tree:
        found = {role: _negative_log_likelihood(params, instance[role]) for role in ("validation", "test", "train")}
        return found | {f"{role}_excess": found[role] - instance[f"{role}_floor"] for role in ("validation", "test")}


def log_joint(params: Tree, points: Tensor) -> Tensor:
    """log w_k + log N(x_n; mu_k, diag v_k): `[..., points, K]` for points `[..., points, 2]`, of one task or of all."""
    logs = params["log_variances"]  # [..., K, 2]
    off = points[..., :, None, :] - params["means"][..., None, :, :]  # [..., points, K, 2]
    squares = (off.square() * (-logs).exp()[..., None, :, :]).sum(-1)
    constant = params["weights"].log_softmax(-1) - logs.sum(-1) / 2 - _DIMENSIONS / 2 * math.log(2 * math.pi)
    return constant[..., None, :] - squares / 2


def _negative_log_likelihood(params: Tree, points: Tensor) -> Tensor:
    """Of a point, on average: `[tasks]`."""
    return -log_joint(params, points).logsumexp(-1).mean(-1)
