"""Convolutional classifiers against plain modules, the published sizes and values known by hand."""

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from l2o import trees
from l2o.errors import ArgumentError
from l2o.processes.optimizee import Optimizee
from l2o.rng import Stream
from l2o.tasks.conv import ConvClassifier, LeNet, NASCell
from l2o.tasks.convolutional import ConvolutionalClassifier
from l2o.tasks.data import Dataset

GREY, COLOUR = (28, 28), (3, 32, 32)


def noise(examples: int, shape: tuple[int, ...], *, classes: int = 10) -> Dataset:
    rng = Stream(0, ("noise",))
    pixels = rng.child("pixels").integers(256, (examples, *shape))[0].to(torch.uint8)
    labels = rng.child("labels").integers(classes, (examples,))[0]
    return Dataset("noise", pixels, labels, classes=classes, complete=True, note="noise")


PUBLISHED = {
    "Conv-MNIST": (ConvClassifier.mnist, GREY, 18_218, 18_122),
    "Conv-CIFAR": (ConvClassifier.cifar, COLOUR, 13_706, 13_610),
    "LeNet": (LeNet, COLOUR, 62_232, 62_006),
    "NAS-CIFAR": (NASCell, COLOUR, 7_706, 7_578),
}
every_published = pytest.mark.parametrize(
    ("make", "shape"), [(make, shape) for make, shape, *_ in PUBLISHED.values()], ids=PUBLISHED
)


class Norm(nn.Module):
    """(x - mean) / sqrt(var + 1e-3) gamma + beta, from its definition."""

    def __init__(self, units: int, *, gamma: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(units)) if gamma else None
        self.bias = nn.Parameter(torch.zeros(units))

    def forward(self, inputs: Tensor) -> Tensor:
        axes = [axis for axis in range(inputs.ndim) if axis != 1]
        centred = inputs - inputs.mean(axes, keepdim=True)
        outputs = (centred / (centred.square().mean(axes, keepdim=True) + 1e-3).sqrt()).movedim(1, -1)
        return ((outputs if self.weight is None else outputs * self.weight) + self.bias).movedim(-1, 1)


class Layers(nn.Module):
    def __init__(self, conv: list[nn.Conv2d], norm: list[Norm], linear: list[nn.Linear]) -> None:
        super().__init__()
        self.conv, self.norm, self.linear = nn.ModuleList(conv), nn.ModuleList(norm), nn.ModuleList(linear)

    def convolved(self, layer: int, inputs: Tensor) -> Tensor:
        return self.norm[layer](self.conv[layer](inputs))


class ConvReference(Layers):
    def __init__(self, channels: int, stride: int, features: int, classes: int) -> None:
        conv = [nn.Conv2d(channels, 16, 3, stride), nn.Conv2d(16, 32, 5, stride)]
        super().__init__(conv, [Norm(16), Norm(32)], [nn.Linear(features, classes)])

    def forward(self, inputs: Tensor) -> Tensor:
        for layer in range(2):
            inputs = nn.MaxPool2d(2)(self.convolved(layer, inputs).relu())
        return self.linear[0](inputs.flatten(1))


class LeNetReference(Layers):
    def __init__(self, channels: int, features: int, classes: int) -> None:
        linear = [nn.Linear(*widths) for widths in pairwise((features, 120, 84, classes))]
        norm = [Norm(units, gamma=False) for units in (6, 16, 120, 84)]
        super().__init__([nn.Conv2d(channels, 6, 5), nn.Conv2d(6, 16, 5)], norm, linear)

    def forward(self, inputs: Tensor) -> Tensor:
        for layer in range(2):
            inputs = nn.MaxPool2d(2)(self.convolved(layer, inputs).sigmoid())
        hidden = self.norm[2](self.linear[0](inputs.flatten(1))).sigmoid()
        return self.linear[2](self.norm[3](self.linear[1](hidden)).sigmoid())


class NASReference(Layers):
    def __init__(self, channels: int, classes: int) -> None:
        conv = [nn.Conv2d(inputs, 16, 3, padding=1) for inputs in (channels, 16, 16, 16)]
        super().__init__(conv, [Norm(16) for _ in range(4)], [nn.Linear(16, classes)])

    def forward(self, inputs: Tensor) -> Tensor:
        first = self.convolved(0, inputs).relu()
        second = self.convolved(1, first).relu()
        pool = nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=False)
        third = pool(second) + self.convolved(2, first).relu()
        fourth = first + self.convolved(3, second).relu() + third
        return self.linear[0](nn.AdaptiveAvgPool2d(1)(fourth).flatten(1))


# Where a stride or a side could be mixed up with another: images that are not square.
REFERENCES = {
    "stride 1": (ConvClassifier, {}, (15, 18), lambda: ConvReference(1, 1, 32 * 1 * 2, 4)),
    "stride 2": (ConvClassifier, {"stride": 2}, (3, 29, 38), lambda: ConvReference(3, 2, 32 * 1 * 1, 4)),
    "lenet": (LeNet, {}, (3, 16, 21), lambda: LeNetReference(3, 16 * 1 * 2, 4)),
    "nas cell": (NASCell, {}, (3, 5, 6), lambda: NASReference(3, 4)),
}
every_network = pytest.mark.parametrize(("make", "options", "shape", "reference"), REFERENCES.values(), ids=REFERENCES)


def start(family: ConvolutionalClassifier, *, tasks: int = 2) -> Optimizee:
    """In float64, at parameters of which none is zero or special."""
    process = Optimizee.start(family, Stream(1, tasks=range(tasks)), dtype=torch.float64)
    shift = Stream(2, tasks=range(tasks))
    moved = {name: leaf + 0.3 * shift.child(name).normal(leaf.shape[1:]) for name, leaf in process.params.items()}
    return Optimizee(family, process.instance, moved, process.rng, 0, process.survivors)


def with_weights(model: nn.Module, params: trees.Tree, task: int) -> nn.Module:
    model = model.double()
    model.load_state_dict({name: leaf[task] for name, leaf in params.items()})
    return model


@pytest.mark.parametrize(("make", "shape", "parameters", "without_norms"), PUBLISHED.values(), ids=PUBLISHED)
def test_published_networks_have_their_parameter_counts(make, shape, parameters: int, without_norms: int) -> None:
    params = make(noise(2, shape)).init({}, Stream(0, tasks=range(2)))
    assert trees.flatten(params).shape == (2, parameters)
    assert sum(leaf[0].numel() for name, leaf in params.items() if "norm" not in name) == without_norms


@pytest.mark.parametrize("logits_relu", [True, False])
@every_network
def test_logits_loss_and_gradient_equal_a_module_of_the_same_weights(
    make, options, shape, reference, logits_relu: bool
) -> None:
    family = make(noise(20, shape, classes=4), batch=7, logits_relu=logits_relu, **options)
    process = start(family)
    batch = process.batch()
    losses, grads = family.value_and_grad(process.params, process.instance, batch)
    for task in range(2):
        model = with_weights(reference(), process.params, task)
        outputs = model(batch["inputs"][task])
        assert (outputs < 0).any()
        if logits_relu:
            outputs = outputs.relu()
        logits = family.logits({name: leaf[task] for name, leaf in process.params.items()}, batch["inputs"][task])
        torch.testing.assert_close(logits, outputs, rtol=1e-10, atol=1e-10)
        loss = nn.functional.cross_entropy(outputs, batch["labels"][task])
        loss.backward()
        torch.testing.assert_close(losses[task], loss.detach(), rtol=1e-10, atol=0)
        for name, theirs in model.named_parameters():
            torch.testing.assert_close(grads[name][task], theirs.grad, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("make", [ConvClassifier.mnist, LeNet, NASCell])
def test_the_paper_s_logits_go_through_relu_but_lenet_s(make) -> None:
    assert make(noise(2, (16, 16))).logits_relu is (make is not LeNet)


@every_published
def test_initial_loss_is_about_ln_10(make, shape) -> None:
    """Starts of deviation 0.01 give logits of deviation below 0.1."""
    _, hidden = Optimizee.start(make(noise(200, shape)), Stream(4, tasks=range(2))).observe()
    assert ((hidden["loss"] - math.log(10)).abs() < 0.05).all()


@every_published
def test_starts_are_normal_numbers_zeros_and_ones(make, shape) -> None:
    """Weights N(0, 0.01^2), gamma 1, beta 0; biases 0 but for LeNet, where they are drawn as the weights are."""
    params = make(noise(2, shape)).init({}, Stream(5, tasks=range(2)))
    drawn = {name: leaf for name, leaf in params.items() if name.endswith(".weight") and "norm" not in name}
    if make is LeNet:
        drawn |= {name: leaf for name, leaf in params.items() if name.endswith(".bias") and "norm" not in name}
    assert float(trees.flatten(drawn).std()) == pytest.approx(0.01, rel=0.05)
    assert all((leaf != 0).all() for leaf in drawn.values())
    for name in params.keys() - drawn.keys():
        assert (params[name] == (1.0 if name.endswith(".weight") else 0.0)).all()


def test_a_network_below_zero_everywhere_has_loss_ln_10_and_no_gradient() -> None:
    """The dead state of a ReLU on the logits; without the ReLU the same network has the same loss and a gradient."""
    images = noise(20, (14, 14))
    for logits_relu in (True, False):
        family = ConvClassifier(images, logits_relu=logits_relu, batch=8)
        process = start(family)
        dead = process.params | {
            "linear.0.weight": torch.zeros_like(process.params["linear.0.weight"]),
            "linear.0.bias": torch.full_like(process.params["linear.0.bias"], -1.0),
        }
        losses, grads = family.value_and_grad(dead, process.instance, process.batch())
        assert losses.tolist() == pytest.approx([math.log(10)] * 2, rel=1e-15)
        assert bool((trees.flatten(grads) == 0).all()) is logits_relu


@every_network
def test_losses_one_by_one_equal_losses_by_vmap(make, options, shape, reference) -> None:
    family = make(noise(20, shape, classes=4), batch=7, **options)
    process = start(family, tasks=3)
    batch = process.batch()
    torch.testing.assert_close(
        family.losses(process.params, process.instance, batch),
        torch.func.vmap(family.loss)(process.params, process.instance, batch),
        rtol=1e-10,
        atol=0,
    )


@every_network
def test_statistics_are_those_of_a_tasks_own_images(make, options, shape, reference) -> None:
    family = make(noise(20, shape, classes=4), batch=7, **options)
    process = start(family, tasks=3)
    batch = process.batch()
    changed = batch | {"inputs": batch["inputs"].clone()}
    changed["inputs"][1] *= 30.0
    for losses in (family.losses, torch.func.vmap(family.loss)):
        before, after = (losses(process.params, process.instance, images) for images in (batch, changed))
        assert (before == after).tolist() == [True, False, True]


@every_network
def test_a_bias_in_front_of_a_normalisation_has_no_influence(make, options, shape, reference) -> None:
    """Up to rounding, 1e-16 of numbers of size 10: the statistics are those of the batch, not of another."""
    family = make(noise(20, shape, classes=4), batch=7, **options)
    process = start(family)
    batch = process.batch()
    shifted = process.params | {"conv.0.bias": process.params["conv.0.bias"] + 5.0}
    before, after = (family.losses(params, process.instance, batch) for params in (process.params, shifted))
    torch.testing.assert_close(before, after, rtol=1e-11, atol=0)


def test_averages_at_an_edge_are_those_of_the_pixels_that_there_are() -> None:
    """Nodes 0 and 1 are 1 everywhere, node 2 is their average 1, node 3 is 1 + 0 + 1: sixteen channels of 2."""
    family = NASCell(noise(4, (3, 3)), batch=2)
    params = {name: torch.zeros(shape) for name, shape in family.shapes.items()}
    params |= {"norm.0.bias": torch.ones(16), "norm.1.bias": torch.ones(16), "linear.0.weight": torch.ones(10, 16)}
    assert family.logits(params, torch.rand(2, 1, 3, 3)).tolist() == [[32.0] * 10] * 2


def test_minibatches_are_the_images_that_their_indices_name() -> None:
    for shape in (GREY, COLOUR):
        train = noise(30, shape)
        family = NASCell(train, batch=50)  # more than there are: drawn with replacement
        indices = family.batch_indices({}, Stream(2, tasks=range(3)))
        batch = family.gather(indices)
        assert batch["inputs"].shape == (3, 50, *(1, *shape)[-3:])
        image = train.inputs[indices["examples"][1, 7]].reshape((1, *shape)[-3:])
        assert torch.equal(batch["inputs"][1, 7], image / 255)
        assert torch.equal(batch["labels"], train.labels[indices["examples"]])


@every_network
def test_accuracy_is_measured_on_equal_parts_with_their_own_statistics(make, options, shape, reference) -> None:
    test = noise(31, shape, classes=4)
    family = make(noise(20, shape, classes=4), test=test, batch=7, logits_relu=False, **options)
    assert family.at_once == 1_000
    family.at_once = 20
    process = start(family)
    accuracy = family.metrics(process.params, process.instance)["test_accuracy"]
    for task in range(2):
        model = with_weights(reference(), process.params, task)
        guesses = torch.cat([model(part.reshape(-1, *family.image) / 255.0) for part in test.inputs.double().split(16)])
        assert float(accuracy[task]) == pytest.approx(float((guesses.argmax(1) == test.labels).double().mean()))


def test_names_tell_networks_strides_data_and_the_relu_apart() -> None:
    images = noise(2, (32, 32))
    families = [make(images, logits_relu=relu) for make in (ConvClassifier, LeNet, NASCell) for relu in (True, False)]
    families += [ConvClassifier(images, stride=2), LeNet(Dataset("other", images.inputs, images.labels, 10, True, ""))]
    assert len({family.name for family in families}) == len(families)


@pytest.mark.parametrize(
    ("make", "least"),
    [(ConvClassifier.mnist, 14), (ConvClassifier.cifar, 29), (LeNet, 16), (NASCell, 2)],
)
def test_the_smallest_images_are_served(make, least: int) -> None:
    seen, _ = Optimizee.start(make(noise(20, (least, least + 1))), Stream(3)).observe()
    assert torch.isfinite(seen["loss"]).all()


@pytest.mark.parametrize(("make", "least"), [(ConvClassifier.mnist, 14), (ConvClassifier.cifar, 29), (LeNet, 16)])
def test_smaller_images_are_refused(make, least: int) -> None:
    for shape in ((least, least - 1), (3, least - 1, least), (8, 8), (1, 1)):
        with pytest.raises(ArgumentError, match=f"at least {least}x{least}"):
            make(noise(2, shape))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"train": noise(2, (784,))}, r"shape \(784,\)"),
        ({"train": noise(2, (2, 3, 14, 14))}, r"shape \(2, 3, 14, 14\)"),
        ({"batch": 1}, "batch is 1"),
        ({"test": noise(1, (14, 14))}, "test has 1 image"),
        ({"test": noise(2, (15, 14))}, "two splits of one data set"),
        ({"stride": 0}, "stride is 0"),
        ({"start_scale": math.nan}, "start_scale is nan"),
    ],
)
def test_nonsense_is_refused(options, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        ConvClassifier(**{"train": noise(2, (14, 14))} | options)
