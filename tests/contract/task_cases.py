"""The task families that go through every shared test: one line adds another."""

import pytest
import torch
from torch import nn

from l2o.rng import Stream
from l2o.tasks.bowl import Bowl
from l2o.tasks.classification import SparseClassification
from l2o.tasks.conv import ConvClassifier, LeNet, NASCell
from l2o.tasks.data import Dataset
from l2o.tasks.functions import BenchmarkFunction
from l2o.tasks.gan import GAN
from l2o.tasks.gan_architecture import Architecture, Network
from l2o.tasks.gaussian_mixture import GaussianMixtureEM
from l2o.tasks.mlp import MLPClassifier
from l2o.tasks.module import ModuleTask
from l2o.tasks.multitask import MultitaskDigits
from l2o.tasks.projected import ProjectedClassification
from l2o.tasks.quadratic import Quadratics
from l2o.tasks.score_network import ScoreNetwork
from l2o.tasks.score_training import Recipe, fresh_params
from l2o.tasks.softmax_regression import SoftmaxRegression
from l2o.tasks.wrappers import ConvexRegulariser, NoisyGradients, RandomScaling


def noise_images(examples: int = 30, shape: tuple[int, ...] = (3, 3)) -> Dataset:
    pixels = Stream(0).child("pixels").integers(256, (examples, *shape))[0].to(torch.uint8)
    return Dataset("noise", pixels, torch.arange(examples) % 4, classes=4, complete=True, note="noise")


def untrained_scores(image: tuple[int, int, int]) -> ScoreNetwork:
    return ScoreNetwork("noise", image, fresh_params(image, 4, Recipe((3,), features=5), Stream(0)))


def small_gan(architecture: Architecture) -> GAN:
    image = architecture.image
    return GAN(noise_images(shape=image), architecture, untrained_scores(image), batch=6, samples=20)


def points() -> tuple[torch.Tensor, torch.Tensor]:
    inputs = Stream(0).child("inputs").normal((40, 3))[0]
    return inputs, inputs.sin().sum(1, keepdim=True)


def convolution() -> nn.Module:
    norm = nn.BatchNorm2d(2, track_running_stats=False)
    return nn.Sequential(nn.Unflatten(1, (1, 3)), nn.Conv2d(1, 2, 2), norm, nn.Tanh(), nn.Flatten(), nn.Linear(8, 4))


def perceptron() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))


# Convolutional networks start at numbers of size 0.5: beside 0.01, a step of finite differences is large enough to
# change which of four pixels is the largest, and there the gradient jumps.
FAMILIES = {
    "quadratics": lambda: Quadratics(4),
    "quadratics published": Quadratics.published,
    "bowl": lambda: Bowl(0.1),
    "rotated bowl": lambda: Bowl(5.0, angle=45.0),
    "softmax regression": lambda: SoftmaxRegression(3, samples=20, batch=6),
    "ackley": BenchmarkFunction.ackley,
    "ackley 5d": lambda: BenchmarkFunction.ackley(5),
    "beale": BenchmarkFunction.beale,
    "booth": BenchmarkFunction.booth,
    "branin": BenchmarkFunction.branin,
    "log-sum-exp": BenchmarkFunction.log_sum_exp,
    "matyas": BenchmarkFunction.matyas,
    "rastrigin": BenchmarkFunction.rastrigin,
    "rastrigin 5d": lambda: BenchmarkFunction.rastrigin(5),
    "rosenbrock": BenchmarkFunction.rosenbrock,
    "rosenbrock 5d": lambda: BenchmarkFunction.rosenbrock(5),
    "styblinski-tang": BenchmarkFunction.styblinski_tang,
    "styblinski-tang 5d": lambda: BenchmarkFunction.styblinski_tang(5),
    "styblinski-tang raised": lambda: BenchmarkFunction.styblinski_tang().raised(80.0),
    "mlp sigmoid": lambda: MLPClassifier(noise_images(), test=noise_images(8), hidden=(5,), batch=16),
    "mlp relu": lambda: MLPClassifier(noise_images(), hidden=(5, 4), activation="relu", batch=16, start_scale=0.5),
    "mlp tanh": lambda: MLPClassifier(noise_images(), hidden=(), activation="tanh", batch=16),
    "projected": lambda: ProjectedClassification(noise_images(), dimensions=5, hidden=6, batch=16, l2=0.1),
    "conv": lambda: ConvClassifier(
        noise_images(shape=(14, 14)), test=noise_images(8, shape=(14, 14)), batch=6, start_scale=0.5
    ),
    "conv stride 2": lambda: ConvClassifier(
        noise_images(shape=(2, 29, 29)), stride=2, logits_relu=False, batch=4, start_scale=0.5
    ),
    "lenet": lambda: LeNet(
        noise_images(shape=(16, 16)), test=noise_images(8, shape=(16, 16)), batch=6, start_scale=0.5
    ),
    "nas cell": lambda: NASCell(noise_images(shape=(2, 4, 5)), batch=6, start_scale=0.5),
    "sparse classification": lambda: SparseClassification(hidden=4, sizes=(20, 9, 20, 9, 9)),
    "multitask digits": lambda: MultitaskDigits(hidden=3, labelled=20, batch=5),
    "gaussian mixture": lambda: GaussianMixtureEM(points=9, validation_size=4, test_size=4),
    "gan perceptrons": lambda: small_gan(Architecture((1, 4, 4), 3, 0, Network(5, "tanh"), Network(4, "tanh"), None)),
    "gan convolutions": lambda: small_gan(
        Architecture((2, 4, 8), 3, 2, Network(2, "tanh", batch_norm=True), Network(3, "tanh"), None)
    ),
    "module regression": lambda: ModuleTask(perceptron, nn.functional.mse_loss, points(), test=points(), batch=16),
    "module images": lambda: ModuleTask(convolution, nn.CrossEntropyLoss(), noise_images(), batch=16),
    "scaled quadratics": lambda: RandomScaling(Quadratics(4)),
    "scaled mlp": lambda: RandomScaling(MLPClassifier(noise_images(), test=noise_images(8), hidden=(5,), batch=16)),
    "regularised rosenbrock": lambda: ConvexRegulariser(BenchmarkFunction.rosenbrock(), coordinates=3),
    "noisy softmax regression": lambda: NoisyGradients(SoftmaxRegression(3, samples=20, batch=6), 0.5),
    "scaled noisy quadratics": lambda: RandomScaling(NoisyGradients(Quadratics(4), 0.5)),
    "regularised noisy rosenbrock": lambda: ConvexRegulariser(NoisyGradients(BenchmarkFunction.rosenbrock(), 0.5)),
    "scaled regularised quadratics": lambda: RandomScaling(
        ConvexRegulariser(Quadratics(4)), spreads={"regulariser/": 1.0}
    ),
    "regularised scaled module": lambda: ConvexRegulariser(
        RandomScaling(ModuleTask(perceptron, nn.functional.mse_loss, points(), batch=16), spread=1.0)
    ),
}

every_family = pytest.mark.parametrize("family", [pytest.param(make(), id=name) for name, make in FAMILIES.items()])
