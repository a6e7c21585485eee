"""The true objective: the mean over all examples, or over a fixed choice of them, in parts of bounded size."""

import pytest
import torch

from l2o.errors import ArgumentError, UnsupportedError
from l2o.rng import Stream
from l2o.tasks import objective
from l2o.tasks.data import blobs
from l2o.tasks.mixture import Mixture
from l2o.tasks.objective import true_losses, true_value_and_grad
from l2o.tasks.projected import ProjectedClassification
from l2o.tasks.quadratic import Quadratics
from l2o.tasks.softmax_regression import SoftmaxRegression

FAMILY = ProjectedClassification(blobs(), dimensions=16, hidden=16)
PARAMS = FAMILY.init({}, Stream(0, tasks=range(3)))


def single_losses() -> torch.Tensor:
    """The loss of every single example: `[tasks, examples]`."""
    inputs, labels = FAMILY.projected.double(), FAMILY.train.labels
    logits = FAMILY.logits_of_tasks(PARAMS, inputs)  # [tasks, examples, classes]
    return torch.nn.functional.cross_entropy(logits.mT, labels.expand(3, -1), reduction="none")


def test_true_losses_are_the_mean_over_all_examples() -> None:
    torch.testing.assert_close(true_losses(FAMILY, PARAMS, {}), single_losses().mean(1), rtol=1e-12, atol=0)


@pytest.mark.parametrize("examples", [1, 700, 1_500])
def test_a_choice_of_examples_is_always_the_same(examples: int) -> None:
    chosen = objective._choice(1_500, examples)
    assert len(chosen.unique()) == examples
    for _ in range(2):
        found = true_losses(FAMILY, PARAMS, {}, examples=examples)
        torch.testing.assert_close(found, single_losses()[:, chosen].mean(1), rtol=1e-12, atol=0)
    value, _ = true_value_and_grad(FAMILY, PARAMS, {}, examples=examples)
    torch.testing.assert_close(value, found, rtol=1e-12, atol=0)


def test_smaller_choices_are_within_larger_ones_and_spread_over_all_examples() -> None:
    """1,000 of 60,000 examples have a mean number of 30,000 +- 548 (5 sigma)."""
    few, many = objective._choice(60_000, 1_000), objective._choice(60_000, 10_000)
    assert torch.isin(few, many).all()
    assert abs(float(few.double().mean()) - 30_000) < 5 * 548


def test_no_more_examples_are_gathered_at_once_than_stated(monkeypatch: pytest.MonkeyPatch) -> None:
    gathered: list[int] = []

    class Watched(ProjectedClassification):
        def gather(self, indices: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
            gathered.append(indices["examples"].numel())
            return super().gather(indices)

    monkeypatch.setattr("l2o.tasks.objective.EXAMPLES_AT_ONCE", 600)
    true_value_and_grad(Watched(blobs(), dimensions=16, hidden=16), PARAMS, {})
    assert sum(gathered) == 1_500
    assert max(gathered) <= 200  # of three tasks, 600 altogether


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_results_are_of_the_parameters_dtype(dtype: torch.dtype) -> None:
    params = {name: leaf.to(dtype) for name, leaf in PARAMS.items()}
    value, grads = true_value_and_grad(FAMILY, params, {})
    assert {value.dtype, true_losses(FAMILY, params, {}).dtype, *(leaf.dtype for leaf in grads.values())} == {dtype}
    assert not value.requires_grad


def test_every_task_has_its_own_data() -> None:
    family = SoftmaxRegression(3, samples=50, batch=6)
    instance = family.sample(Stream(1, tasks=range(2)))
    params = family.init(instance, Stream(1, tasks=range(2)))
    for task in range(2):
        logits = instance["inputs"][task] @ params["weight"][task] + params["bias"][task]
        loss = torch.nn.functional.cross_entropy(logits, instance["labels"][task])
        torch.testing.assert_close(true_losses(family, params, instance)[task], loss, rtol=1e-12, atol=0)


def test_what_has_no_true_objective_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="both has no true objective"):
        true_losses(Mixture("both", [Quadratics(2), Quadratics(3)]), {}, {})


@pytest.mark.parametrize("examples", [0, 1_501])
def test_as_many_examples_as_there_are_not_are_refused(examples: int) -> None:
    with pytest.raises(ArgumentError, match=f"examples is {examples}; .* has 1,500"):
        true_losses(FAMILY, PARAMS, {}, examples=examples)
