"""Generative adversarial networks: a generator and a discriminator, each with a loss and parameters of its own."""

import math
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import softplus

from l2o import trees
from l2o.errors import ArgumentError
from l2o.rng import Stream
from l2o.tasks.alternate import AlternateFamily, Choice, Goal
from l2o.tasks.convolutional import image_shape
from l2o.tasks.data import Dataset
from l2o.tasks.gan_architecture import Architecture
from l2o.tasks.gan_networks import generate, initial_params, judge
from l2o.tasks.score_network import ScoreNetwork, load_score_network
from l2o.tasks.score_training import score_data
from l2o.tasks.scores import frechet_distance, inception_score
from l2o.trees import Tree

_NETWORKS = ("generator", "discriminator")
_AT_ONCE = 1_000
"""Images that are generated at once: bounds the memory."""

GeneratorLoss = Literal["non-saturating", "saturating"]


class GAN(AlternateFamily):
    """A generator G of images and a discriminator D that tells them from real ones, D(x) a logit.

        generator      mean softplus(-D(G(z))),  or saturating: -mean softplus(D(G(z)))
        discriminator  (mean softplus(-D(x)) + mean softplus(D(G(z)))) / 2

    z ~ N(0, I), drawn afresh for each update, as the real images x are; x is scaled to [-1, 1], where G ends in a tanh.
    With batch normalisation D sees real and generated images as two batches.

    Tasks of the family differ in their start, images and noise. Choice 0 updates the generator, choice 1 the
    discriminator, choice 2, if asked for, both at the same parameters. Metrics, all with the same noise at every
    validation:

        inception_score      of `samples` generated images
        frechet              squared Fréchet distance of their features to those of as many real images
        discriminator_error  share of wrong verdicts of D, half of them about real images

    Args:
        train: the real images.
        architecture: of both networks.
        scores: the network that judges the images.
        batch: real images, and generated ones, of an update; at least 2.
        generator_loss: "non-saturating", or "saturating" as in the paper's text.
        generator_steps: updates in a row that choice 0 makes.
        discriminator_steps: updates in a row that choice 1 makes.
        simultaneous: whether there is choice 2.
        samples: generated images of a validation, at least 2.
        splits: of the inception score; see `inception_score`.

    Example:
        >>> family = GAN.digits(samples=20)
        >>> [choice.name for choice in family.choices], family.goal.metric
        (['generator', 'discriminator'], 'inception_score')
        >>> family.samples(family.init({}, Stream(0)), 5, Stream(1)).shape  # images of one task, in [0, 1]
        torch.Size([1, 5, 1, 8, 8])

    Source: Goodfellow et al. 2014, with the losses of the public code of AutoLoss (Xu et al. 2019), section 5.2, which
    takes 5,000 samples and 5 splits. There, real MNIST images are in [0, 1], which gives D an early cue.
    """

    def __init__(
        self,
        train: Dataset,
        architecture: Architecture,
        scores: ScoreNetwork,
        *,
        batch: int = 64,
        generator_loss: GeneratorLoss = "non-saturating",
        generator_steps: int = 1,
        discriminator_steps: int = 1,
        simultaneous: bool = False,
        samples: int = 1_000,
        splits: int = 1,
    ) -> None:
        if generator_loss not in ("non-saturating", "saturating"):
            raise ArgumentError(f"generator_loss is {generator_loss!r}; choose 'non-saturating' or 'saturating'")
        if batch < 2 or samples < 2 or not 1 <= splits <= samples:
            raise ArgumentError(
                f"batch is {batch}, samples {samples}, splits {splits}; pass at least 2, at least 2, and 1 to samples"
            )
        sizes = {"train": image_shape(train), "architecture": architecture.image, "scores": scores.image}
        if len(set(sizes.values())) > 1:
            found = ", ".join(f"{name} {'x'.join(map(str, size))}" for name, size in sizes.items())
            raise ArgumentError(f"images differ in size: {found}; pass three that fit each other")
        generator, discriminator = ("generator", "generator"), ("discriminator", "discriminator")
        choices = [
            Choice("generator", (generator,), repeat=generator_steps),
            Choice("discriminator", (discriminator,), repeat=discriminator_steps),
        ]
        if simultaneous:
            choices.append(Choice("both", (generator, discriminator), cost=2.0))
        super().__init__(
            losses=("generator", "discriminator"),
            groups={name: [f"{name}/{leaf}" for leaf in architecture.shapes(name)] for name in _NETWORKS},
            choices=choices,
            goal=Goal("inception_score", "higher"),
        )
        self.name = f"gan-{architecture.name}-{train.name}-{batch}-{generator_loss}"
        self.train, self.architecture, self.scores = train, architecture, scores
        self.batch, self.generator_loss = batch, generator_loss
        self.validation_samples, self.splits = samples, splits

    @classmethod
    def digits(cls, architecture: Architecture | None = None, *, batch: int = 64, samples: int = 1_000) -> "GAN":
        """8x8 digits, by default perceptrons of 128 units: a step takes about half a millisecond."""
        return cls._of("digits", architecture or Architecture.perceptrons((1, 8, 8)), batch, samples)

    @classmethod
    def small_mnist(cls, architecture: Architecture | None = None, *, batch: int = 64, samples: int = 1_000) -> "GAN":
        """MNIST at 14x14, by default one convolution each."""
        return cls._of("mnist-grey-14x14", architecture or Architecture.convolutional((1, 14, 14)), batch, samples)

    @classmethod
    def mnist(cls, architecture: Architecture | None = None, *, batch: int = 128, samples: int = 1_000) -> "GAN":
        """28x28 MNIST, by default the published networks."""
        return cls._of("mnist", architecture or Architecture.dcgan((1, 28, 28)), batch, samples)

    @classmethod
    def small_cifar(cls, architecture: Architecture | None = None, *, batch: int = 64, samples: int = 1_000) -> "GAN":
        """CIFAR-10 in grey at 16x16, by default one convolution each."""
        return cls._of("cifar-10-grey-16x16", architecture or Architecture.convolutional((1, 16, 16)), batch, samples)

    @classmethod
    def _of(cls, data: str, architecture: Architecture, batch: int, samples: int) -> "GAN":
        return cls(score_data(data, "train"), architecture, load_score_network(data), batch=batch, samples=samples)

    def init(self, instance: Tree, rng: Stream) -> Tree:
        return trees.join(**{name: initial_params(self.architecture, name, rng.child(name)) for name in _NETWORKS})

    def batch_indices(self, instance: Tree, rng: Stream) -> Tree:
        """Which real images, and the noise itself."""
        return {
            "examples": rng.child("examples").integers(len(self.train.labels), (self.batch,)),
            "noise": rng.child("noise").normal((self.batch, self.architecture.latent)),
        }

    def gather(self, indices: Tree) -> Tree:
        return {"real": self._real(indices["examples"]), "noise": indices["noise"]}

    def loss_named(self, name: str, params: Tree, instance: Tree, batch: Tree) -> Tensor:
        one, drawn = ({leaf: value[None] for leaf, value in tree.items()} for tree in (params, batch))
        return self.losses_named(name, one, {}, drawn)[0]

    def losses_named(self, name: str, params: Tree, instance: Tree, batch: Tree) -> Tensor:
        generator, discriminator = (trees.select(params, network) for network in _NETWORKS)
        generated = generate(self.architecture, generator, batch["noise"])
        if name == "generator":
            logits = judge(self.architecture, discriminator, generated)
            return softplus(-logits).mean(1) if self.generator_loss == "non-saturating" else -softplus(logits).mean(1)
        about_real, about_generated = self._verdicts(discriminator, batch["real"], generated)
        return (softplus(-about_real).mean(1) + softplus(about_generated).mean(1)) / 2

    def losses(self, params: Tree, instance: Tree, batch: Tree) -> Tensor:
        return torch.stack([self.losses_named(name, params, instance, batch) for name in self.loss_names]).sum(0)

    @torch.no_grad()
    def samples(self, params: Tree, count: int, rng: Stream) -> Tensor:
        """Generated images.

        Args:
            params: of every task.
            count: images of a task, at least 1. With batch normalisation up to 1,000 are normalised together.
            rng: where the noise comes from: of its first task alone, so that all tasks get the same.

        Returns:
            `[tasks, count, channels, height, width]` in [0, 1].
        """
        return self._unit(self._generated(params, self._noise(count, rng)))

    def class_shares(self, params: Tree, count: int, rng: Stream) -> Tensor:
        """Which share of `count` generated images the score network takes for each class: `[tasks, classes]`."""
        guesses = [self.scores.outputs(images)[0].argmax(1) for images in self.samples(params, count, rng)]
        counts = torch.stack([guess.bincount(minlength=self.scores.classes) for guess in guesses])
        return counts.double() / count

    @torch.no_grad()
    def metrics(self, params: Tree, instance: Tree) -> Tree:
        leaf = next(iter(params.values()))
        generated = self._generated(params, self._validation_noise)
        reference = self._reference_features.to(leaf.device)
        scores, distances = [], []
        for images in self._unit(generated):  # [samples, channels, height, width] of one task
            logs, features = self.scores.outputs(images)
            scores.append(inception_score(logs, splits=self.splits))
            distances.append(frechet_distance(features, reference))
        real = self._real(self._references).to(leaf)
        about_real, about_generated = self._verdicts(
            trees.select(params, "discriminator"), real.expand(len(generated), *real.shape), generated[:, : len(real)]
        )
        error = ((about_real <= 0).double().mean(1) + (about_generated > 0).double().mean(1)) / 2
        measures = {
            "inception_score": torch.stack(scores), "frechet": torch.stack(distances), "discriminator_error": error,
        }  # fmt: skip
        return trees.to(measures, leaf.device, leaf.dtype)

    def data_notes(self) -> list[str]:
        return [self.train.note, f"{self.scores.name}: {'; '.join(self.scores.data_notes)}"]

    def _verdicts(self, discriminator: Tree, real: Tensor, generated: Tensor) -> tuple[Tensor, Tensor]:
        """Logits `[tasks, images]` of real and of generated images: two batches, even where one would be the same."""
        return judge(self.architecture, discriminator, real), judge(self.architecture, discriminator, generated)

    def _generated(self, params: Tree, noise: Tensor) -> Tensor:
        generator = trees.select(params, "generator")
        leaf = next(iter(generator.values()))
        parts = noise.to(leaf).tensor_split(math.ceil(len(noise) / _AT_ONCE))
        images = [generate(self.architecture, generator, part.expand(len(leaf), *part.shape)) for part in parts]
        return torch.cat(images, dim=1)

    def _noise(self, count: int, rng: Stream) -> Tensor:
        """`[count, latent]`."""
        if count < 1:
            raise ArgumentError(f"count is {count}; ask for at least 1 image")
        return rng.over([rng.tasks[0]]).normal((count, self.architecture.latent))[0]

    def _real(self, examples: Tensor) -> Tensor:
        """The images of these numbers in [-1, 1]: `[..., channels, height, width]`."""
        return self.train.inputs[examples].reshape(*examples.shape, *self.architecture.image).float() / 127.5 - 1

    @staticmethod
    def _unit(images: Tensor) -> Tensor:
        """From [-1, 1] to [0, 1]."""
        return (images + 1) / 2

    @cached_property
    def _validation_noise(self) -> Tensor:
        return self._noise(self.validation_samples, Stream(0, ("gan", "validation noise")))

    @cached_property
    def _references(self) -> Tensor:
        """Numbers of the real images that are compared with: as many as there are samples, or all."""
        order = Stream(0, ("gan", "references")).uniform((len(self.train.labels),))[0].argsort()
        return order[: self.validation_samples]

    @cached_property
    def _reference_features(self) -> Tensor:
        return self.scores.outputs(self._unit(self._real(self._references)))[1]
