"""Module tasks against ordinary PyTorch: the same module, built, run and trained by hand."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from l2o import trees
from l2o.curves import run_curves
from l2o.errors import ArgumentError, UnsupportedError
from l2o.optimizers.handcrafted import SGD
from l2o.processes.optimizee import Optimizee
from l2o.rng import Stream
from l2o.tasks.data import Dataset
from l2o.tasks.module import ModuleTask

STREAM = Stream(4, ("module",), tasks=range(3))
INPUTS = Stream(0).child("inputs").normal((60, 5))[0].float()
LABELS = (INPUTS[:, 0] > 0).long() + (INPUTS[:, 1] > 0).long()
VALUES = INPUTS.square().sum(1, keepdim=True)
CROSS_ENTROPY = nn.CrossEntropyLoss()


def classifier() -> nn.Module:
    return nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3))


def classification(**options) -> ModuleTask:
    return ModuleTask(classifier, CROSS_ENTROPY, (INPUTS, LABELS), **options)


def with_weights(params: trees.Tree, task: int) -> nn.Module:
    model = classifier()
    model.load_state_dict({name: leaf[task] for name, leaf in params.items()})
    return model


def grads_of(observation: trees.Tree) -> trees.Tree:
    return trees.select(observation, "grad")


class Tied(nn.Module):
    """The second layer is the first one's transpose by sharing its weight."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(5, 5)
        self.second = nn.Linear(5, 5)
        self.second.weight = self.first.weight

    def forward(self, inputs: Tensor) -> Tensor:
        return self.second(torch.tanh(self.first(inputs)))


class Features(nn.Module):
    """A linear layer on frozen features and a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.frozen = nn.Linear(5, 4).requires_grad_(False)
        self.register_buffer("shift", torch.linspace(-1, 1, 4))
        self.head = nn.Linear(4, 1)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(torch.relu(self.frozen(inputs) + self.shift))


class Unused(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.used, self.spare = nn.Linear(5, 3), nn.Linear(5, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.used(inputs)


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(5, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.lstm(inputs[None])[0][0]


class Integer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(5, 3)
        self.count = nn.Parameter(torch.zeros(1, dtype=torch.int64), requires_grad=False)


class Counting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(5, 3)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, inputs: Tensor) -> Tensor:
        self.calls += 1
        return self.linear(inputs)


def test_starts_are_what_pytorch_builds_from_the_tasks_own_seeds() -> None:
    params = classification().init({}, STREAM)
    for task, generator in enumerate(STREAM.generators()):
        torch.manual_seed(int(generator.integers(2**63 - 1)))
        model = classifier()
        assert list(params) == [name for name, _ in model.named_parameters()]
        assert all(torch.equal(params[name][task], leaf) for name, leaf in model.named_parameters())
    assert not torch.equal(params["0.weight"][0], params["0.weight"][1])


def test_global_random_numbers_are_left_alone() -> None:
    torch.manual_seed(9)
    before = torch.get_rng_state()
    family = classification(test=(INPUTS, LABELS))
    process = Optimizee.start(family, STREAM)
    process.observe()
    family.metrics(process.params, {})
    with pytest.raises(UnsupportedError):  # tried out, with random numbers, before it is refused
        ModuleTask(lambda: nn.Sequential(nn.Linear(5, 3), nn.Dropout()), CROSS_ENTROPY, (INPUTS, LABELS))
    assert torch.equal(torch.get_rng_state(), before)


def test_modules_keep_no_hooks_of_the_trial_run() -> None:
    built: list[nn.Module] = []

    def make() -> nn.Module:
        built.append(classifier())
        return built[-1]

    ModuleTask(make, CROSS_ENTROPY, (INPUTS, LABELS))
    for model in built:
        assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_loss_and_gradient_equal_those_of_the_module() -> None:
    process = Optimizee.start(classification(batch=16), STREAM)
    seen, _ = process.observe()
    batch = process.batch()
    assert batch["inputs"].shape == (3, 16, 5)
    for task in range(3):
        model = with_weights(process.params, task)
        loss = CROSS_ENTROPY(model(batch["inputs"][task]), batch["targets"][task])
        loss.backward()
        torch.testing.assert_close(seen["loss"][task], loss.detach())
        for name, leaf in model.named_parameters():
            torch.testing.assert_close(seen[f"grad/{name}"][task], leaf.grad)


def test_gradient_descent_equals_torch_optim_step_for_step() -> None:
    """float64 and the same minibatches: 30 steps differ by rounding only."""
    process = Optimizee.start(classification(batch=16), STREAM, dtype=torch.float64)
    models = [with_weights(process.params, task).double() for task in range(3)]
    optimizers = [torch.optim.SGD(model.parameters(), lr=0.5) for model in models]
    for _ in range(30):
        batch = process.batch()
        for task, (model, optimizer) in enumerate(zip(models, optimizers, strict=True)):
            optimizer.zero_grad()
            CROSS_ENTROPY(model(batch["inputs"][task]), batch["targets"][task]).backward()
            optimizer.step()
        seen, _ = process.observe()
        process = process.apply(trees.map_leaves(lambda grad: -0.5 * grad, grads_of(seen)))
    for task, model in enumerate(models):
        for name, leaf in model.named_parameters():
            torch.testing.assert_close(process.params[name][task], leaf.detach(), rtol=1e-10, atol=1e-12)


def test_an_optimizer_learns_a_module_task_end_to_end() -> None:
    curves = run_curves(SGD(1.0), classification(test=(INPUTS, LABELS)), STREAM, steps=100)
    assert not curves.diverged.any()
    assert (curves.losses[:, -1] < 0.3 * curves.losses[:, 0]).all()
    assert (curves.metrics["test_accuracy"] > 0.9).all()


def test_minibatches_are_the_examples_that_their_indices_name() -> None:
    family = classification(batch=200)  # more than there are: drawn with replacement
    indices = family.batch_indices({}, STREAM)
    batch = family.gather(indices)
    assert torch.equal(batch["inputs"], INPUTS[indices["examples"]])
    assert torch.equal(batch["targets"], LABELS[indices["examples"]])
    assert set(indices["examples"].flatten().tolist()) == set(range(60))


def test_bytes_are_read_as_fractions_and_other_inputs_as_they_are() -> None:
    pixels = torch.arange(60, dtype=torch.uint8).reshape(60, 1).repeat(1, 5)
    family = ModuleTask(classifier, CROSS_ENTROPY, (pixels, LABELS))
    indices = {"examples": torch.tensor([[3, 51]])}
    assert torch.equal(family.gather(indices)["inputs"], pixels[[3, 51]][None].float() / 255)
    words = torch.arange(60).reshape(60, 1) % 7
    embedding = ModuleTask(lambda: nn.Sequential(nn.Embedding(7, 3), nn.Flatten()), CROSS_ENTROPY, (words, LABELS))
    process = Optimizee.start(embedding, STREAM, dtype=torch.float64)
    assert process.batch()["inputs"].dtype == torch.int64
    assert process.observe()[0]["loss"].dtype == torch.float64


def test_a_dataset_gives_inputs_labels_and_notes() -> None:
    train = Dataset("dots", torch.zeros(4, 2, 2, dtype=torch.uint8), torch.arange(4) % 2, 2, True, "four black images")
    test = Dataset("dots", torch.zeros(2, 2, 2, dtype=torch.uint8), torch.arange(2), 2, True, "two black images")
    family = ModuleTask(lambda: nn.Sequential(nn.Flatten(), nn.Linear(4, 2)), CROSS_ENTROPY, train, test=test)
    assert family.data_notes() == ["four black images", "two black images"]
    assert family.metrics(family.init({}, STREAM), {})["test_accuracy"].tolist() == [0.5, 0.5, 0.5]
    assert classification().data_notes() == []


def test_accuracy_is_that_of_the_module() -> None:
    inputs, labels = INPUTS.repeat(90, 1), LABELS.repeat(90)  # more than are measured at once
    params = classification().init({}, STREAM)
    metrics = classification(test=(inputs, labels)).metrics(params, {})
    for task in range(3):
        share = (with_weights(params, task)(inputs).argmax(1) == labels).double().mean()
        assert float(metrics["test_accuracy"][task]) == pytest.approx(float(share), abs=1e-6)


@pytest.mark.parametrize("examples", [60, 5_400])
def test_without_class_labels_the_test_loss_is_measured(examples: int) -> None:
    inputs, values = INPUTS.repeat(examples // 60, 1), VALUES.repeat(examples // 60, 1)
    family = ModuleTask(lambda: nn.Linear(5, 1), nn.functional.mse_loss, (INPUTS, VALUES), test=(inputs, values))
    params = family.init({}, STREAM)
    metrics = family.metrics(params, {})
    assert metrics.keys() == {"test_loss"}
    for task in range(3):
        outputs = INPUTS @ params["weight"][task].T + params["bias"][task]
        assert float(metrics["test_loss"][task]) == pytest.approx(float((outputs - VALUES).square().mean()), rel=1e-5)


def test_integers_that_are_no_class_labels_give_the_test_loss() -> None:
    counts = LABELS + 7

    def loss_fn(outputs: Tensor, targets: Tensor) -> Tensor:
        return nn.functional.poisson_nll_loss(outputs.mean(1), targets)

    family = ModuleTask(classifier, loss_fn, (INPUTS, counts), test=(INPUTS, counts))
    assert family.metrics(family.init({}, STREAM), {}).keys() == {"test_loss"}


def test_without_test_examples_there_are_no_metrics() -> None:
    family = classification()
    assert family.metrics(family.init({}, STREAM), {}) == {}


def test_a_shared_parameter_is_one_and_collects_both_gradients() -> None:
    family = ModuleTask(Tied, nn.functional.mse_loss, (INPUTS, INPUTS), batch=16)
    process = Optimizee.start(family, STREAM)
    assert list(process.params) == ["first.weight", "first.bias", "second.bias"]
    seen, _ = process.observe()
    batch = process.batch()
    for task in range(3):
        model = Tied()
        with torch.no_grad():
            for name, leaf in model.named_parameters():
                leaf.copy_(process.params[name][task])
        nn.functional.mse_loss(model(batch["inputs"][task]), batch["targets"][task]).backward()
        torch.testing.assert_close(seen["grad/first.weight"][task], model.first.weight.grad)
        torch.testing.assert_close(seen["grad/second.bias"][task], model.second.bias.grad)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_buffers_and_frozen_parameters_are_fixed_and_shared(dtype: torch.dtype) -> None:
    family = ModuleTask(Features, nn.functional.mse_loss, (INPUTS, VALUES), batch=16)
    process = Optimizee.start(family, STREAM, dtype=dtype)
    assert list(process.params) == ["head.weight", "head.bias"]
    seen, _ = process.observe()
    torch.manual_seed(0)
    model = Features().to(dtype)
    batch = process.batch()
    for task in range(3):
        model.head.load_state_dict({name[5:]: leaf[task] for name, leaf in process.params.items()})
        loss = nn.functional.mse_loss(model(batch["inputs"][task]), batch["targets"][task])
        torch.testing.assert_close(seen["loss"][task], loss.detach())


@pytest.mark.parametrize(
    "norm",
    [nn.BatchNorm1d(4, track_running_stats=False), nn.BatchNorm1d(4).eval(), nn.LayerNorm(4), nn.Dropout(0.0)],
    ids=lambda module: type(module).__name__,
)
def test_layers_without_state_or_randomness_are_served(norm: nn.Module) -> None:
    family = ModuleTask(lambda: nn.Sequential(nn.Linear(5, 4), norm, nn.Linear(4, 3)), CROSS_ENTROPY, (INPUTS, LABELS))
    process = Optimizee.start(family, STREAM)
    seen, _ = process.observe()
    again, _ = process.apply(trees.map_leaves(torch.zeros_like, grads_of(seen))).observe()
    assert process.alive.all()
    assert torch.isfinite(again["loss"]).all()


def test_the_name_is_the_modules_or_the_given_one() -> None:
    assert classification().name == "module-Sequential"
    assert classification(name="moons").name == "moons"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: nn.Sequential(nn.Linear(5, 3), nn.BatchNorm1d(3)), "BatchNorm1d '1'.*track_running_stats=False"),
        (lambda: nn.BatchNorm1d(5), "^BatchNorm1d changes its buffer.*track_running_stats=False"),
        (Counting, "Counting changes its buffer 'calls'"),
        (lambda: nn.Sequential(nn.Linear(5, 3), nn.Dropout(0.5)), "Dropout '1' cannot be batched.*p=0"),
        (
            lambda: nn.Sequential(nn.Sequential(nn.AlphaDropout()), nn.Linear(5, 3)),
            "AlphaDropout '0.0' cannot be batched",
        ),
        (Recurrent, "LSTM 'lstm' cannot be batched"),
        (lambda: nn.LazyLinear(3), "parameter weight has no shape yet"),
        (lambda: nn.Linear(5, 3, dtype=torch.complex64), "parameter weight is torch.complex64"),
        (Integer, "parameter count is torch.int64"),
    ],
)
def test_modules_that_cannot_be_batched_over_tasks_are_refused_by_name(make, message: str) -> None:
    with pytest.raises(UnsupportedError, match=message):
        ModuleTask(make, CROSS_ENTROPY, (INPUTS, LABELS))


@pytest.mark.parametrize(
    ("loss_fn", "message"),
    [
        (nn.CrossEntropyLoss(reduction="none"), r"loss_fn gave torch.float32 \[2\].*scalar"),
        (lambda outputs, targets: outputs.argmax(), r"loss_fn gave torch.int64 \[\]"),
        (lambda outputs, targets: 1.0, "loss_fn gave float"),
        (lambda outputs, targets: outputs.detach().sum(), "does not depend on 0.weight, 0.bias, 2.weight, 2.bias"),
    ],
)
def test_a_loss_that_is_no_scalar_of_the_parameters_is_refused(loss_fn, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        ModuleTask(classifier, loss_fn, (INPUTS, LABELS))


def test_a_loss_that_cannot_be_batched_is_refused() -> None:
    def loss_fn(outputs: Tensor, targets: Tensor) -> Tensor:
        return outputs.square().mean() if outputs.mean() > 0 else outputs.abs().mean()

    with pytest.raises(UnsupportedError, match="the loss or its gradient cannot be batched"):
        ModuleTask(classifier, loss_fn, (INPUTS, LABELS))


def test_a_parameter_without_influence_is_refused() -> None:
    with pytest.raises(ArgumentError, match=r"does not depend on spare.weight, spare.bias"):
        ModuleTask(Unused, CROSS_ENTROPY, (INPUTS, LABELS))


ONE_MODULE = classifier()


def unkeyed() -> nn.Module:
    model = nn.Linear(5, 3)
    model.weight.data += float(np.random.default_rng().normal())
    return model


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (ONE_MODULE, "model_factory is a Sequential; pass a function"),
        (lambda: ONE_MODULE, "same module twice"),
        (lambda: None, "model_factory gave a NoneType"),
        (nn.Flatten, "Flatten has no parameters to optimize"),
        (lambda: classifier().requires_grad_(False), "no parameters to optimize"),
        (lambda: nn.Linear(5, 3, device="meta"), "is on meta"),
        (unkeyed, "parameter weight differs between two modules"),
    ],
)
def test_factories_that_do_not_build_are_refused(make, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        ModuleTask(make, CROSS_ENTROPY, (INPUTS, LABELS))


@pytest.mark.parametrize("role", ["data", "test"])
@pytest.mark.parametrize(
    ("examples", "message"),
    [
        ((INPUTS, LABELS[:-1]), r"shapes \[60, 5\] and \[59\]"),
        ((INPUTS[:0], LABELS[:0]), r"shapes \[0, 5\] and \[0\]"),
        ((torch.tensor(1.0), torch.tensor(1)), r"shapes \[\] and \[\]"),
        (INPUTS[:2], "is a Tensor; pass a pair"),
        ((INPUTS,), "is a tuple; pass a pair"),
        (([1.0], [2.0]), "is a tuple; pass a pair"),
    ],
)
def test_data_that_is_no_pair_of_equal_lengths_is_refused(role: str, examples, message: str) -> None:
    with pytest.raises(ArgumentError, match=f"{role} .*{message}"):
        ModuleTask(classifier, CROSS_ENTROPY, **{"data": (INPUTS, LABELS), role: examples})


def test_a_batch_of_none_is_refused() -> None:
    with pytest.raises(ArgumentError, match="batch is 0"):
        classification(batch=0)


def test_the_modules_own_errors_come_out_as_they_are() -> None:
    with pytest.raises(RuntimeError, match="mat1 and mat2") as caught:
        ModuleTask(lambda: nn.Linear(4, 3), CROSS_ENTROPY, (INPUTS, LABELS))
    assert not isinstance(caught.value, UnsupportedError)


def test_one_example_is_enough() -> None:
    family = ModuleTask(classifier, CROSS_ENTROPY, (INPUTS[:1], LABELS[:1]))
    seen, _ = Optimizee.start(family, STREAM).observe()
    assert math.isfinite(float(seen["loss"].sum()))
