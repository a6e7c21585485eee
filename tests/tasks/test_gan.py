"""GANs: published sizes, gradients beside plain modules, who touches whose parameters, scores of known images."""

import pytest
import torch
from contract.task_cases import noise_images, untrained_scores
from torch import nn

from l2o import trees
from l2o.errors import ArgumentError
from l2o.optimizers.handcrafted import Adam
from l2o.processes.judging import Outcome
from l2o.processes.replicated_losses import ReplicatedLosses, Settings
from l2o.rng import Stream
from l2o.rollout import rollout
from l2o.schedules.base import ScheduleDrives
from l2o.schedules.fixed import InTurn
from l2o.tasks.alternate import AlternateFamily
from l2o.tasks.gan import GAN
from l2o.tasks.gan_architecture import Architecture, Network
from l2o.tasks.gan_networks import initial_params, judge
from l2o.tasks.score_training import score_data
from l2o.tasks.scores import frechet_distance, inception_score

RNG = Stream(3, ("test",), tasks=range(3))
NETWORKS = ("generator", "discriminator")
GREY, COLOUR = (1, 4, 8), (3, 8, 8)
MLP = Architecture.perceptrons(GREY, hidden=6, latent=5)
ARCHITECTURES = {
    "perceptrons": MLP,
    "perceptrons, normalised": Architecture(
        GREY, 5, 0, Network(6, "tanh", batch_norm=True), Network(7, "leaky", batch_norm=True), deviation=None
    ),
    "one stage": Architecture.convolutional(GREY, filters=3, latent=5),
    "dcgan of 3 stages, normalised": Architecture(
        COLOUR, 5, 3, Network(2, "relu", batch_norm=True), Network(3, "leaky", batch_norm=True), deviation=0.2
    ),
    "generator normalised": Architecture(GREY, 5, 2, Network(3, "leaky", batch_norm=True), Network(2, "tanh")),
}
every_architecture = pytest.mark.parametrize("architecture", ARCHITECTURES.values(), ids=ARCHITECTURES.keys())


def family(architecture=MLP, **options):
    options = {"batch": 6, "samples": 20, **options}
    return GAN(noise_images(30, architecture.image), architecture, untrained_scores(architecture.image), **options)


def started(gan, rng=RNG, **settings):
    rules = {name: Adam(0.01) for name in NETWORKS}
    return ReplicatedLosses.start(gan, Settings(rules, **settings), rng, steps=1000, dtype=torch.float64)


def chosen(*numbers):
    return {"choice": torch.tensor(numbers)}


class Plain(nn.Module):
    """The same networks from PyTorch's own layers."""

    def __init__(self, architecture: Architecture, network: str) -> None:
        super().__init__()
        channels, height, width = architecture.image
        generates = network == "generator"
        own = architecture.generator if generates else architecture.discriminator
        activation = {"relu": nn.ReLU(), "leaky": nn.LeakyReLU(0.2), "tanh": nn.Tanh()}[own.activation]
        pixels, stages, c = channels * height * width, architecture.stages, own.filters

        def hidden(units: int, layer: int, kind: type[nn.Module]) -> list[nn.Module]:
            normalised = own.batch_norm and (generates or layer > 0)
            return [kind(units, track_running_stats=False)] * normalised + [activation]

        layers: list[nn.Module] = []
        if not stages:
            layers = [nn.Flatten()] * (not generates)
            for layer, inputs in enumerate((architecture.latent if generates else pixels, c)):
                layers += [nn.Linear(inputs, c), *hidden(c, layer, nn.BatchNorm1d)]
            layers += [nn.Linear(c, pixels), nn.Unflatten(1, architecture.image)] if generates else [nn.Linear(c, 1)]
        elif generates:
            units, size = c * 2 ** (stages - 1), (height // 2**stages, width // 2**stages)
            layers = [nn.Linear(architecture.latent, units * size[0] * size[1]), nn.Unflatten(1, (units, *size))]
            for stage in range(stages):
                outputs = units // 2 if stage < stages - 1 else channels
                layers += hidden(units, stage, nn.BatchNorm2d)
                layers += [nn.ConvTranspose2d(units, outputs, 5, 2, padding=2, output_padding=1)]
                units = outputs
        else:
            units = channels
            for stage in range(stages):
                layers += [nn.Conv2d(units, c * 2**stage, 5, 2, padding=2)]
                units = c * 2**stage
                layers += hidden(units, stage, nn.BatchNorm2d)
            layers += [nn.Flatten(), nn.Linear(units * (height // 2**stages) * (width // 2**stages), 1)]
        self.layers = nn.Sequential(*layers, *[nn.Tanh()] * generates).double()
        self.named: dict[str, torch.Tensor] = {}
        counts = {"linear": 0, "conv": 0, "norm": 0 if generates else 1}  # a discriminator's first layer has none
        for layer in self.layers:
            kind = {"L": "linear", "C": "conv", "B": "norm"}.get(type(layer).__name__[0], "")
            if list(layer.parameters()):
                self.named |= {f"{kind}.{counts[kind]}.{part}": getattr(layer, part) for part in ("weight", "bias")}
                counts[kind] += 1

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return self.layers(values)


def plain_networks(architecture, params, task):
    """Modules with the parameters of one task."""
    modules = [Plain(architecture, name) for name in NETWORKS]
    for name, module in zip(NETWORKS, modules, strict=True):
        own = trees.select(params, name)
        assert module.named.keys() == own.keys()
        with torch.no_grad():
            for leaf, value in own.items():
                module.named[leaf].copy_(value[task])
    return modules


def test_published_networks_have_the_published_sizes():
    mnist = Architecture.dcgan((1, 28, 28))
    assert (mnist.size("generator"), mnist.size("discriminator")) == (1_015_553, 212_865)  # "1.02 M", "0.21 M"
    for name in NETWORKS:
        params = initial_params(mnist, name, Stream(0))
        assert sum(leaf[0].numel() for leaf in params.values()) == mnist.size(name)
        drawn = torch.cat([leaf.flatten() for leaf_name, leaf in params.items() if leaf_name.endswith("weight")])
        assert drawn.std().item() == pytest.approx(0.02, rel=0.01)
        assert all(not leaf.any() for leaf_name, leaf in params.items() if leaf_name.endswith("bias"))
    cifar = Architecture.dcgan((3, 32, 32), batch_norm=True)
    assert cifar.shapes("generator")["linear.0.weight"] == (4 * 4 * 256, 128)
    assert cifar.shapes("generator")["conv.2.weight"] == (64, 3, 5, 5)
    assert cifar.shapes("discriminator")["conv.2.weight"] == (256, 128, 5, 5)
    assert [cifar.shapes("generator")[f"norm.{layer}.bias"] for layer in range(3)] == [(256,), (128,), (64,)]
    assert "norm.0.bias" not in cifar.shapes("discriminator")
    assert "norm.3.bias" not in cifar.shapes("generator")


@every_architecture
@pytest.mark.parametrize("loss", ["non-saturating", "saturating"])
def test_losses_and_gradients_are_those_of_plain_modules(architecture, loss):
    gan = family(architecture, generator_loss=loss)
    process = started(gan)
    params, batch = process.params, process._batch(0)
    found = {name: gan.pair_value_and_grad((name, name), params, {}, batch) for name in NETWORKS}
    for task in range(3):
        generator, discriminator = plain_networks(architecture, params, task)
        real, fake = discriminator(batch["real"][task]), discriminator(generator(batch["noise"][task]))
        lure = -fake.sigmoid().log().mean() if loss == "non-saturating" else (1 - fake.sigmoid()).log().mean()
        tell = -(real.sigmoid().log().mean() + (1 - fake.sigmoid()).log().mean()) / 2
        for name, module, value in (("generator", generator, lure), ("discriminator", discriminator, tell)):
            grads = torch.autograd.grad(value, list(module.named.values()), retain_graph=True)
            values, leaves = found[name]
            torch.testing.assert_close(values[task], value.detach(), rtol=1e-10, atol=0)
            assert leaves.keys() == {f"{name}/{leaf}" for leaf in module.named}
            scale = max(
                float(grad.abs().max()) for grad in grads
            )  # a bias before a normalisation has none but rounding
            for leaf, grad in zip(module.named, grads, strict=True):
                mine = leaves[f"{name}/{leaf}"][task]
                torch.testing.assert_close(mine, grad, rtol=1e-8, atol=1e-12 * scale)


@every_architecture
def test_batched_losses_and_gradients_are_those_of_single_tasks_under_vmap(architecture):
    gan = family(architecture)
    process = started(gan)
    batch = process._batch(0)
    for name in NETWORKS:
        values, grads = gan.pair_value_and_grad((name, name), process.params, {}, batch)
        leaves = {leaf: process.params[leaf].clone().requires_grad_() for leaf in grads}
        truth = AlternateFamily.losses_named(gan, name, {**process.params, **leaves}, {}, batch)
        torch.testing.assert_close(values, truth.detach(), rtol=1e-12, atol=0)
        for leaf, grad in zip(grads, torch.autograd.grad(truth.sum(), list(leaves.values())), strict=True):
            torch.testing.assert_close(grads[leaf], grad, rtol=1e-8, atol=1e-12)


@every_architecture
def test_a_step_of_one_network_leaves_the_other_bit_for_bit(architecture):
    process = started(family(architecture)).apply(chosen(0, 1, 0))
    after = process.apply(chosen(0, 1, 1))
    for task, moved in enumerate(("generator", "discriminator", "discriminator")):
        for name, leaf in {**process.params, **process.states}.items():
            if name.startswith(moved):
                continue
            own = {**after.params, **after.states}[name]
            assert torch.equal(own[task], leaf[task]), name
        changed = trees.select(after.params, moved), trees.select(process.params, moved)
        assert not torch.equal(*(trees.flatten(tree)[task] for tree in changed))


def test_real_and_generated_images_are_normalised_apart():
    architecture = ARCHITECTURES["dcgan of 3 stages, normalised"]
    gan = family(architecture)
    process = started(gan)
    batch, own = process._batch(0), trees.select(process.params, "discriminator")
    alone = judge(architecture, own, batch["real"])
    beside = judge(architecture, own, torch.cat([batch["real"], -batch["real"]], dim=1))[:, : gan.batch]
    assert not torch.allclose(alone, beside)
    about_real, _ = gan._verdicts(own, batch["real"], -batch["real"])
    assert torch.equal(about_real, alone)


@every_architecture
def test_replicas_are_the_runs_that_they_would_be_alone(architecture):
    """A step of Adam divides by the gradient's size: noise of 1e-16 in one near 0 shows as 1e-10."""
    gan = family(architecture)
    together = started(gan).apply(chosen(0, 1, 1)).apply(chosen(1, 0, 1))
    for task, numbers in enumerate(((0, 1), (1, 0), (1, 1))):
        alone = started(gan, RNG.over([task]))
        for number in numbers:
            alone = alone.apply(chosen(number))
        visible = [name for name in alone.params if architecture.generator.batch_norm is False or "bias" not in name]
        for name in visible:
            torch.testing.assert_close(alone.params[name][0], together.params[name][task], rtol=0, atol=1e-7)
        mine, theirs = (gan.metrics(process.params, {}) for process in (alone, together))
        for name in mine:
            torch.testing.assert_close(mine[name][0], theirs[name][task], rtol=1e-4, atol=1e-6)


def test_both_at_once_steps_from_the_same_parameters():
    gan = family(simultaneous=True)
    process = started(gan)
    after, one, other = (process.apply(chosen(*[number] * 3)) for number in (2, 0, 1))
    for name, leaf in after.params.items():
        assert torch.equal(leaf, (one if name.startswith("generator") else other).params[name])
    assert after.observe()[0]["cost"].tolist() == [2.0] * 3


def test_repeated_updates_draw_new_images_and_noise():
    gan = family(generator_steps=2, discriminator_steps=3)
    process = started(gan)
    first, second = process._batch(0), process._batch(1)
    assert not torch.equal(first["real"], second["real"])
    assert not torch.equal(first["noise"], second["noise"])
    assert process.apply(chosen(0, 1, 1)).observe()[0]["cost"].tolist() == [2.0, 3.0, 3.0]


def test_images_are_scaled_as_the_networks_need_them():
    gan = family(batch=20)
    process = started(gan)
    real = process._batch(0)["real"]
    assert real.shape == (3, 20, *GREY)
    assert -1 <= real.min() < -0.9 < 0.9 < real.max() <= 1
    images = gan.samples(process.params, 11, Stream(0))
    assert images.shape == (3, 11, *GREY)
    assert 0 <= images.min() < images.max() <= 1
    assert torch.equal(images, gan.samples(process.params, 11, Stream(0)))
    assert not torch.equal(images, gan.samples(process.params, 11, Stream(1)))
    shares = gan.class_shares(process.params, 50, Stream(0))
    assert shares.sum(1).tolist() == pytest.approx([1.0] * 3)
    guesses = gan.scores.outputs(gan.samples(process.params, 50, Stream(0))[1])[0].argmax(1)
    assert shares[1].tolist() == [(guesses == number).double().mean().item() for number in range(4)]


def test_metrics_are_the_scores_of_the_samples():
    gan = family(samples=30, splits=3)
    params = started(gan).params
    images = gan.samples(params, 30, Stream(0, ("gan", "validation noise")))
    real = gan.train.inputs.reshape(-1, *GREY) / 255  # as many as there are samples: all
    found, features = gan.metrics(params, {}), gan.scores.outputs(real)[1]
    verdicts = judge(MLP, trees.select(params, "discriminator"), 2 * torch.stack([real.double()] * 3) - 1)
    lies = judge(MLP, trees.select(params, "discriminator"), 2 * images - 1)
    for task in range(3):
        logs, own = gan.scores.outputs(images[task])
        assert found["inception_score"][task].item() == pytest.approx(inception_score(logs, splits=3).item())
        assert found["frechet"][task].item() == pytest.approx(frechet_distance(own, features).item(), rel=1e-5)
        wrong = (verdicts[task] <= 0).sum() + (lies[task] > 0).sum()
        assert found["discriminator_error"][task].item() == pytest.approx(wrong.item() / 60)


def test_a_discriminator_that_believes_everything_errs_on_half():
    gan = family()
    process = started(gan)
    always = {**process.params, "discriminator/linear.2.weight": torch.zeros(3, 1, 6, dtype=torch.float64)}
    always["discriminator/linear.2.bias"] = torch.tensor([[1.0], [-1.0], [1.0]], dtype=torch.float64)
    assert gan.metrics(always, {})["discriminator_error"].tolist() == [0.5, 0.5, 0.5]
    assert process.outcome.tolist() == [Outcome.RUNNING] * 3


def test_a_generator_that_is_not_finite_has_diverged():
    process = started(family(), validate_every=1)
    process.params["generator/linear.0.bias"][1] = torch.nan
    assert process.apply(chosen(1, 1, 1)).outcome.tolist() == [Outcome.RUNNING, Outcome.DIVERGED, Outcome.RUNNING]


def test_real_digits_score_high_and_noise_low():
    scores = GAN.digits(samples=10).scores
    for split, low in (("train", 9.8), ("test", 9.4)):
        images = score_data("digits", split).inputs[:, None].float() / 255
        assert low < inception_score(scores.outputs(images)[0]).item() < 10
    noise = Stream(0).uniform((1000, 1, 8, 8))[0]
    assert inception_score(scores.outputs(noise)[0]).item() < 4


def test_digits_appear_when_the_discriminator_leads():
    gan, rng = GAN.digits(samples=500), Stream(1, ("short",))
    rules = {name: Adam(5e-4, beta1=0.5, beta2=0.999) for name in NETWORKS}
    process = ReplicatedLosses.start(gan, Settings(rules, validate_every=500), rng, steps=1000)
    first = process.judgement.first.item()
    driver = ScheduleDrives(InTurn.ratio(1, 3), rng)
    record = rollout(process, driver, driver.begin(), 1000, record=frozenset())
    assert first < 3
    assert record.process.judgement.best.item() > 3.5
    assert record.process.judgement.metrics["frechet"].item() < 100  # 230 of a collapsed generator
    assert gan.data_notes()[1].startswith("score network digits, test accuracy 0.98")


def test_every_sampled_architecture_builds_and_takes_a_step_of_each_network():
    drawn = [Architecture.sampled((1, 8, 8), Stream(0, ("lottery",)).at(trajectory=number)) for number in range(20)]
    assert len({architecture.name for architecture in drawn}) >= 18
    for architecture in drawn:
        process = started(family(architecture, batch=2, samples=4), Stream(0))
        for number in (0, 1):
            process = process.apply(chosen(number))
        assert process.outcome.tolist() == [Outcome.RUNNING]
    assert {architecture.latent for architecture in drawn} == {64, 128}
    for name in NETWORKS:
        networks = [getattr(architecture, name) for architecture in drawn]
        assert {network.filters for network in networks} == {32, 64, 128}
        assert {network.activation for network in networks} == {"relu", "leaky"}
        assert {network.batch_norm for network in networks} == {False, True}


def test_what_does_not_fit_is_refused():
    with pytest.raises(ArgumentError, match="activation is 'selu'; choose one of relu, leaky, tanh"):
        Network(4, "selu")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ArgumentError, match="filters is 0"):
        Network(0, "relu")
    with pytest.raises(ArgumentError, match="images of 8x6 cannot be halved 2 times; pass fewer stages"):
        Architecture((1, 8, 6), 5, 2, Network(4, "relu"), Network(4, "relu"))
    with pytest.raises(ArgumentError, match="latent is 0"):
        Architecture.perceptrons(GREY, latent=0)
    with pytest.raises(ArgumentError, match="deviation is 0"):
        Architecture(GREY, 5, 0, Network(4, "relu"), Network(4, "relu"), deviation=0.0)
    with pytest.raises(ArgumentError, match="nothing is normalised; pass batch_norm=False"):
        Architecture(GREY, 5, 1, Network(4, "relu"), Network(4, "relu", batch_norm=True))
    with pytest.raises(ArgumentError, match="pass 0, or 2 and more"):
        Architecture.sampled(GREY, Stream(0), stages=1)
    with pytest.raises(ArgumentError, match="generator_loss is 'hinge'"):
        family(generator_loss="hinge")
    with pytest.raises(ArgumentError, match="batch is 1"):
        family(batch=1)
    with pytest.raises(ArgumentError, match="splits 21"):
        family(splits=21)
    with pytest.raises(ArgumentError, match="repeats 0 times"):
        family(generator_steps=0)
    with pytest.raises(ArgumentError, match="train 1x4x8, architecture 1x4x8, scores 3x8x8"):
        GAN(noise_images(30, GREY), MLP, untrained_scores(COLOUR))
    with pytest.raises(ArgumentError, match="count is 0"):
        family().samples(started(family()).params, 0, RNG)
