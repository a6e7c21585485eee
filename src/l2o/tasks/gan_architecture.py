"""How a generator and a discriminator of images are built: one description from perceptrons to DCGAN."""

import math
from dataclasses import dataclass
from typing import Literal, get_args

from l2o.errors import ArgumentError
from l2o.rng import Stream

Activation = Literal["relu", "leaky", "tanh"]
KERNEL = 5
"""Height and width of every convolution's kernel."""


@dataclass(frozen=True)
class Network:
    """What a generator and a discriminator each have of their own.

    Args:
        filters: channels of its largest images, doubled by each further stage; of a perceptron, units of a layer.
        activation: after each hidden layer: "relu", "leaky" (slope 0.2) or "tanh".
        batch_norm: whether hidden layers are normalised with the statistics of the batch, in training and in use
            alike; of a discriminator, not the first one.
    """

    filters: int
    activation: Activation
    batch_norm: bool = False

    def __post_init__(self) -> None:
        if self.filters < 1:
            raise ArgumentError(f"filters is {self.filters}; a network needs at least 1")
        if self.activation not in get_args(Activation):
            raise ArgumentError(f"activation is {self.activation!r}; choose one of {', '.join(get_args(Activation))}")


@dataclass(frozen=True)
class Architecture:
    """A generator and a discriminator for images of one size.

    With c filters, s stages and images of height x width, both divided by 2^s:

        generator      noise -> linear, c 2^(s-1) channels -> s times a 5x5 transposed convolution of stride 2, each to
                       half as many channels, the last to those of an image -> tanh
        discriminator  image -> s times a 5x5 convolution of stride 2, to c, 2 c, ... channels -> linear, one number

    Without stages both are perceptrons with two hidden layers of c units. All layers have biases; one in front of a
    batch normalisation has no influence and is counted among the parameters all the same.

    Args:
        image: channels, height and width, both divisible by 2^stages.
        latent: dimensions of the noise.
        stages: how often a convolution halves the image; 0 for perceptrons.
        generator: of which network.
        discriminator: of which network.
        deviation: of the initial weights, N(0, deviation^2); None for N(0, 1 / inputs). Biases start at 0, factors of
            normalisations at 1.

    Example:
        >>> networks = Architecture.dcgan((1, 28, 28))
        >>> networks.size("generator"), networks.size("discriminator")
        (1015553, 212865)

    Source: Radford et al. 2016, as the public code of AutoLoss (Xu et al. 2019) has it: without batch normalisation
    for MNIST, one linear layer in front. There, TensorFlow pads even images unevenly; here they are padded by 2 on all
    sides.
    """

    image: tuple[int, int, int]
    latent: int
    stages: int
    generator: Network
    discriminator: Network
    deviation: float | None = 0.02

    def __post_init__(self) -> None:
        if self.latent < 1 or self.stages < 0:
            raise ArgumentError(f"latent is {self.latent} and stages {self.stages}; pass at least 1 and 0")
        if any(side % 2**self.stages for side in self.image[1:]):
            raise ArgumentError(
                f"images of {self.image[1]}x{self.image[2]} cannot be halved {self.stages} times; pass fewer stages"
            )
        if self.deviation is not None and not 0 < self.deviation < float("inf"):
            raise ArgumentError(f"deviation is {self.deviation}; it must be positive and finite, or None")
        if self.stages == 1 and self.discriminator.batch_norm:
            raise ArgumentError(
                "discriminator has batch_norm and one stage, of which nothing is normalised; pass batch_norm=False"
            )

    @classmethod
    def perceptrons(cls, image: tuple[int, int, int], *, hidden: int = 128, latent: int = 64) -> "Architecture":
        """Two hidden layers each, ReLU in the generator, leaky ReLU in the discriminator; weights N(0, 1 / inputs)."""
        return cls(image, latent, 0, Network(hidden, "relu"), Network(hidden, "leaky"), deviation=None)

    @classmethod
    def convolutional(cls, image: tuple[int, int, int], *, filters: int = 16, latent: int = 64) -> "Architecture":
        """One stage each: for images of 8x8 to 16x16."""
        return cls(image, latent, 1, Network(filters, "relu"), Network(filters, "leaky"))

    @classmethod
    def dcgan(
        cls, image: tuple[int, int, int], *, filters: int = 64, latent: int = 128, batch_norm: bool = False
    ) -> "Architecture":
        """The published networks: two stages for 28x28 images, three for 32x32, where the source normalises."""
        stages = next((n for n in (3, 2, 1) if all(side % 2**n == 0 for side in image[1:])), 0)
        return cls(image, latent, stages, Network(filters, "relu", batch_norm), Network(filters, "leaky", batch_norm))

    @classmethod
    def sampled(cls, image: tuple[int, int, int], rng: Stream, *, stages: int = 2) -> "Architecture":
        """One of the 288 architectures that a schedule is transferred to, drawn for the stream's first task.

        Filters of 32, 64 or 128, batch normalisation or not, ReLU or leaky ReLU, all for each network by itself; noise
        of 64 or 128 dimensions; weights N(0, 0.02^2).

        Args:
            image: channels, height and width.
            rng: of the draw.
            stages: of both networks; not 1, where a discriminator has nothing to normalise.

        Source: AutoLoss (Xu et al. 2019), section 5.3, with the choices of the public code.
        """
        if stages == 1:
            raise ArgumentError("stages is 1, where a discriminator has nothing to normalise; pass 0, or 2 and more")

        def network(name: str) -> Network:
            filters, activation, normalised = (
                int(rng.child(name).child(part).integers(values)[0])
                for part, values in (("filters", 3), ("activation", 2), ("batch norm", 2))
            )
            return Network(32 * 2**filters, ("relu", "leaky")[activation], bool(normalised))

        latent = 64 * (1 + int(rng.child("latent").integers(2)[0]))
        return cls(image, latent, stages, network("generator"), network("discriminator"))

    @property
    def name(self) -> str:
        """Short, and different for different architectures of one image size."""
        start = "fan-in" if self.deviation is None else f"{self.deviation:g}"
        parts = [
            f"{network.filters}{network.activation}{'-norm' if network.batch_norm else ''}"
            for network in (self.generator, self.discriminator)
        ]
        kind = f"conv{self.stages}" if self.stages else "mlp"
        return f"{kind}-z{self.latent}-{'-'.join(parts)}-{start}"

    def shapes(self, network: str) -> dict[str, tuple[int, ...]]:
        """Each parameter of the "generator" or the "discriminator" and its shape, without the tasks axis."""
        generates = network == "generator"
        own = self.generator if generates else self.discriminator
        weights, hidden = self._layers(own.filters, generates=generates)
        shapes: dict[str, tuple[int, ...]] = {}
        for name, shape in weights.items():
            # A transposed convolution's weight has its inputs first.
            outputs = shape[1] if generates and name.startswith("conv") else shape[0]
            shapes |= {f"{name}.weight": shape, f"{name}.bias": (outputs,)}
        if own.batch_norm:
            for layer, units in list(enumerate(hidden))[0 if generates else 1 :]:
                shapes |= {f"norm.{layer}.weight": (units,), f"norm.{layer}.bias": (units,)}
        return shapes

    def size(self, network: str) -> int:
        """How many numbers the parameters of a network are."""
        return sum(math.prod(shape) for shape in self.shapes(network).values())

    def _layers(self, filters: int, *, generates: bool) -> tuple[dict[str, tuple[int, ...]], list[int]]:
        """The shapes of a network's weights, and the channels or units of its hidden layers."""
        channels, height, width = self.image
        pixels = math.prod(self.image)
        if not self.stages:
            sizes = [self.latent if generates else pixels, filters, filters, pixels if generates else 1]
            return {f"linear.{i}": (sizes[i + 1], sizes[i]) for i in range(3)}, [filters] * 2
        widths = [filters * 2**stage for stage in range(self.stages)]  # from the largest images inwards
        inner = widths[-1] * (height >> self.stages) * (width >> self.stages)
        steps = [*reversed(widths), channels] if generates else [channels, *widths]
        convolutions = {
            f"conv.{i}": (steps[i : i + 2] if generates else steps[i : i + 2][::-1]) for i in range(self.stages)
        }
        shapes = {name: (*pair, KERNEL, KERNEL) for name, pair in convolutions.items()}
        if generates:
            return {"linear.0": (inner, self.latent), **shapes}, steps[:-1]
        return {**shapes, "linear.0": (1, inner)}, widths
