"""RMSprop over the meta-parameters is TensorFlow's; moments are kept apart, or shared, by kind of loss."""

import math

import pytest
import torch
from torch import nn

from l2o.agent import Agent
from l2o.errors import ArgumentError
from l2o.meta_optimizer import MetaAdam, MetaOptimizer, MetaRMSprop

RATE = 0.1


class Point(Agent):
    """Meta-parameters, and nothing to do."""

    def __init__(self, *start):
        super().__init__()
        self.phi = nn.Parameter(torch.tensor(start, dtype=torch.float64))

    def config(self):
        raise NotImplementedError

    def init_state(self, params, rng):
        raise NotImplementedError

    def forward(self, observation, state):
        raise NotImplementedError


def walk(settings, gradients, *, losses=("a",), start=0.0):
    """The meta-parameter after each step along the gradients, whose losses take turns."""
    point = Point(start)
    optimizer = MetaOptimizer(point, settings, losses)
    path = []
    for number, gradient in enumerate(gradients):
        loss = losses[number % len(losses)]
        optimizer.step({"phi": torch.tensor([gradient], dtype=torch.float64)}, loss, progress=0.0)
        path.append(point.phi.item())
    return path


def test_rmsprop_steps_as_by_hand():
    # s: 1, then 0.9 + 0.1 * 9 = 1.8, then 0.9 * 1.8 + 0.1 * 1 = 1.72, then 1.548 + 0.1 * 1e8, the gradient clipped.
    first = -RATE * 3 / math.sqrt(1.8)
    second = first + RATE * 1 / math.sqrt(1.72)
    third = second - RATE * 1e4 / math.sqrt(1e7 + 1.548)
    assert walk(MetaRMSprop(RATE), [3.0, -1.0, 5e4]) == pytest.approx([first, second, third], rel=1e-14)


def test_epsilon_stands_under_the_root():
    # s = 0.5 + 0.5 * 16 = 8.5; sqrt(8.5 + 7.5) = 4
    assert walk(MetaRMSprop(RATE, decay=0.5, epsilon=7.5), [4.0]) == pytest.approx([-RATE], rel=1e-15)


def test_rmsprop_is_torchs_from_a_mean_square_of_one():
    parameter = nn.Parameter(torch.zeros(1, dtype=torch.float64))
    reference = torch.optim.RMSprop([parameter], lr=RATE, alpha=0.9, eps=1e-20)
    reference.state[parameter] = {"step": torch.zeros(()), "square_avg": torch.ones_like(parameter)}
    path, gradients = [], torch.randn(20, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for gradient in gradients:
        parameter.grad = gradient.reshape(1)
        reference.step()
        path.append(parameter.item())
    assert walk(MetaRMSprop(RATE), gradients.tolist()) == pytest.approx(path, rel=1e-12)  # roundings of 20 steps


@pytest.mark.parametrize(("bound", "counted"), [(2.0, 2.0), (None, 8.0)])
def test_numbers_of_a_meta_gradient_are_clipped_one_by_one(bound, counted):
    point = Point(0.0, 0.0)
    gradient = {"phi": torch.tensor([-8.0, 1.0], dtype=torch.float64)}
    MetaOptimizer(point, MetaRMSprop(RATE, element_clip=bound), ["a"]).step(gradient, "a", progress=0.0)
    wanted = [RATE * counted / math.sqrt(0.9 + 0.1 * counted**2), -RATE * 1 / math.sqrt(1.0)]
    assert point.phi.tolist() == pytest.approx(wanted, rel=1e-14)


def test_losses_have_mean_squares_of_their_own_or_share_one():
    big, small = 10.0, 1e-3
    own = walk(MetaRMSprop(RATE), [big, small], losses=("a", "b"))
    shared = walk(MetaRMSprop(RATE, moments="shared"), [big, small], losses=("a", "b"))
    alone = walk(MetaRMSprop(RATE), [big, small])
    assert own[0] == shared[0]
    assert own[1] - own[0] == pytest.approx(-RATE * small / math.sqrt(0.9 + 0.1 * small**2), rel=1e-9)
    assert shared == alone
    assert MetaAdam().moments_of("a") == "a"


@pytest.mark.parametrize("settings", [MetaRMSprop(RATE), MetaRMSprop(RATE, moments="shared"), MetaAdam(RATE)], ids=repr)
def test_moments_that_are_loaded_go_on_as_if_never_saved(settings):
    def stepped(optimizer, gradient, loss):
        optimizer.step({"phi": torch.tensor([gradient], dtype=torch.float64)}, loss, progress=0.0)

    here, there = Point(0.0), Point(0.0)
    ours, theirs = (MetaOptimizer(point, settings, ["a", "b"]) for point in (here, there))
    for gradient, loss in ((3.0, "a"), (0.1, "b"), (-2.0, "a")):
        stepped(ours, gradient, loss)
    there.load_state_dict(here.state_dict())
    theirs.load({name: leaf.clone() for name, leaf in ours.tree().items()})
    for gradient, loss in ((1.0, "b"), (0.5, "a")):
        stepped(ours, gradient, loss)
        stepped(theirs, gradient, loss)
    assert torch.equal(here.phi, there.phi)
    assert ours.tree().keys() == theirs.tree().keys()


def test_the_layout_of_adams_moments_is_that_of_older_checkpoints():
    optimizer = MetaOptimizer(Point(0.0), MetaAdam(), ["meta-loss"])
    optimizer.step({"phi": torch.ones(1, dtype=torch.float64)}, "meta-loss", progress=0.0)
    assert set(optimizer.tree()) == {f"meta-loss/{leaf}/phi" for leaf in ("step", "exp_avg", "exp_avg_sq")}


def test_the_learning_rate_of_rmsprop_falls_along_half_a_cosine():
    settings = MetaRMSprop(1.0, 0.2)
    assert [settings.at(share) for share in (0, 0.5, 1)] == pytest.approx([1.0, 0.6, 0.2])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"learning_rate": 0}, "meta learning rate is 0"),
        ({"final_learning_rate": 1.0}, r"final meta learning rate is 1\.0"),
        ({"decay": 1.0}, r"decay is 1\.0; it must lie in \[0, 1\)"),
        ({"epsilon": 0.0}, r"epsilon is 0\.0; it must be positive"),
        ({"element_clip": -1.0}, r"element_clip is -1\.0; it must be positive, or None"),
        ({"moments": "none"}, "moments is 'none'; choose 'own' or 'shared'"),
    ],
)
def test_settings_of_rmsprop_that_make_no_sense_are_refused(wrong, message):
    with pytest.raises(ArgumentError, match=message):
        MetaRMSprop(**wrong)
