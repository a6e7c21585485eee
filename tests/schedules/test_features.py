"""Features: exact values, averages by validations, normalisers that freeze, and files that bring all of it back."""

import math

import pytest
import torch

import l2o
from l2o.errors import ArgumentError, WeightsError
from l2o.schedules.architectures import SCHEDULES, load_schedule
from l2o.schedules.controllers import Controller
from l2o.schedules.features import (
    FEATURES,
    MeasureFeatures,
    PaperFeatures,
    PaperGANFeatures,
    ReleaseFeatures,
    ReleaseGANFeatures,
    RobustFeatures,
)
from l2o.schedules.fixed import ConstantRates, InTurn, RatesInTime, Recorded, Threshold

PAIRS, LOSSES = [("mse", "model"), ("l1", "model")], ["mse", "l1"]


def seen(progress=0.0, mse=4.0, l1=2.0, g1=3.0, g2=0.5, validation=5.0, validated=1.0):
    leaves = {
        "progress": progress, "loss/mse": mse, "loss/l1": l1, "gradient/mse:model": g1, "gradient/l1:model": g2,
        "metric/validation": validation, "validated": validated,
    }  # fmt: skip
    return {name: torch.tensor([value]) for name, value in leaves.items()}


def gan(progress=0.5, g1=2.0, g2=1.0, l1=3.0, l2=1.5, score=6.0, error=0.25):
    leaves = {
        "progress": progress, "gradient/generator:generator": g1, "gradient/discriminator:discriminator": g2,
        "loss/generator": l1, "loss/discriminator": l2, "metric/inception_score": score,
        "metric/discriminator_error": error,
    }  # fmt: skip
    return {name: torch.tensor([value]) for name, value in leaves.items()}


def rows(features, observations):
    state, found = features.begin(1), []
    for observation in observations:
        row, state = features(observation, state)
        assert row.shape == (1, features.width)
        found.append(row[0].tolist())
    return found


def test_paper_features_average_over_validations():
    first, second, third = rows(
        PaperFeatures(PAIRS, LOSSES, "validation", beta=0.9),
        [seen(), seen(progress=0.1, validation=4.0), seen(progress=0.2, validation=9.0, validated=0.0)],
    )
    assert first == pytest.approx([0.0, 3.0, 0.5, 4.0, 2.0, 5.0, 5.0, 0.0])
    assert second == pytest.approx([0.1, 3.0, 0.5, 4.0, 2.0, 4.0, 4.9, -0.1])
    assert third == pytest.approx([0.2, 3.0, 0.5, 4.0, 2.0, 4.0, 4.9, -0.1])


def test_release_features_are_those_of_the_public_code():
    first, second = rows(ReleaseFeatures("mse", "l1", "model", "validation"), [seen(), seen(mse=30.0, validation=4.0)])
    assert first == pytest.approx([0.25, 1 + math.log(0.1 + 1e-5) / 12, 0.2 - 0.5, 1.0, 2.5])
    decrease = 0.9 * 0.1 + 0.1 * 1.0
    assert second == pytest.approx([(4 - 30) / 30, 1 + math.log(decrease + 1e-5) / 12, 0.5, 1.0, 2.5])


def test_features_of_gans():
    (paper,) = rows(PaperGANFeatures(), [gan()])
    assert paper == pytest.approx([0.5, 2.0, 1.0, math.log(2), 3.0, 1.5, math.log(2), 6.0, 0.25], rel=1e-6)
    assert rows(PaperGANFeatures(), [gan(g2=0.0)])[0][3] == 5.0
    start, first, second = rows(ReleaseGANFeatures(typical=8.0), [gan(progress=0.0), gan(), gan(l1=4.0)])
    assert start == [0.0] * 4
    assert first == pytest.approx([-math.log(2), 2.0, 1.5, -2.0])
    assert second[1] == pytest.approx(0.9 * 3.0 + 0.1 * 4.0 - 1)


def test_robust_features_are_shares_of_the_start_and_normalised_logarithms():
    features = RobustFeatures(PAIRS, LOSSES, "validation", episodes=2)
    first, second = rows(features, [seen(validation=8.0), seen(progress=0.5, validation=4.0, mse=0.0)])
    assert first == pytest.approx([0.0, math.log(3), math.log(0.5), math.log(4), math.log(2), 1.0, 1.0, 0.0])
    assert second[3] == pytest.approx(math.log(1e-8))
    assert second[5:] == pytest.approx([0.5, 0.95, -0.05])
    raw = torch.randn(200, features.width, generator=torch.Generator().manual_seed(0)) * 3 + 7
    features.learn(raw[:100])
    features.learn(raw[100:])
    found = features.normalised(raw)[:, 1:5]
    assert torch.allclose(found.mean(0), torch.zeros(4), atol=0.05)
    assert torch.allclose(found.std(0), torch.ones(4), atol=0.05)
    frozen = features.normalised(raw)
    still = RobustFeatures(PAIRS, LOSSES, "validation")
    still.learn(torch.zeros(50, still.width))
    assert still.normalised(torch.full((1, still.width), 0.1))[0, 1:5].tolist() == pytest.approx([0.2] * 4)
    features.learn(100 * raw)
    assert torch.equal(features.normalised(raw), frozen)
    assert features.normalised(1e9 * raw).abs().max() == 5.0


def test_a_missing_measure_is_named():
    with pytest.raises(ArgumentError, match="no measure loss/l2"):
        rows(RobustFeatures(PAIRS, ["l2"], "validation"), [seen()])


MADE = {
    "MeasureFeatures": MeasureFeatures(["loss/mse"]),
    "PaperFeatures": PaperFeatures(PAIRS, LOSSES, "validation", beta=0.5),
    "PaperGANFeatures": PaperGANFeatures(generator="g", discriminator="d", metrics=["a", "b"]),
    "ReleaseFeatures": ReleaseFeatures("mse", "l1", "model", "validation", beta=0.5),
    "ReleaseGANFeatures": ReleaseGANFeatures(typical=6.0, beta=0.5),
    "RobustFeatures": RobustFeatures(PAIRS, LOSSES, "validation", progress=False, episodes=3),
}


@pytest.mark.parametrize("kind", FEATURES)
def test_a_controller_comes_back_from_its_file_with_its_features(kind, tmp_path):
    features = MADE[kind]
    controller = Controller(features, 3, hidden=[5], temperature=2.0, logit_cap=4.0, critic=[2], slope=0.2, seed=9)
    features.learn(torch.rand(10, features.width))
    l2o.save(controller, tmp_path / "schedule")
    again = load_schedule(tmp_path / "schedule.safetensors")
    assert again.config() == controller.config()
    table = torch.rand(4, features.width)
    assert torch.equal(again.log_probabilities(table), controller.log_probabilities(table))
    assert torch.equal(again.values(table), controller.values(table))


@pytest.mark.parametrize(
    "schedule",
    [
        InTurn.ratio(1, 3), ConstantRates.coin(0.2), Threshold("a", "b", 0.5), Recorded([[0, 1], [1, 1]], 2),
        RatesInTime([[0.5, 0.5], [1.0, 0.0]]),
    ],
    ids=lambda schedule: schedule.name,
)  # fmt: skip
def test_schedules_that_nobody_trained_come_back_from_their_files(schedule, tmp_path):
    l2o.save(schedule, tmp_path / "schedule")
    again = load_schedule(tmp_path / "schedule.safetensors")
    assert type(again) is type(schedule)
    assert again.config() == schedule.config()


def test_a_file_of_something_else_is_refused(tmp_path):
    l2o.save(l2o.Adam(0.1), tmp_path / "adam")
    with pytest.raises(WeightsError, match="holds weights of 'Adam', known are Controller"):
        load_schedule(tmp_path / "adam.safetensors")
    l2o.save(Controller(MeasureFeatures(["progress"]), 2), tmp_path / "schedule")
    with pytest.raises(WeightsError, match="holds weights of 'Controller', known are"):
        l2o.load(tmp_path / "schedule.safetensors")

    class Mine(MeasureFeatures):
        pass

    l2o.save(Controller(Mine(["progress"]), 2), tmp_path / "mine")
    with pytest.raises(WeightsError, match="no features 'Mine'; known are MeasureFeatures"):
        load_schedule(tmp_path / "mine.safetensors")

    class Knows(Controller):
        @classmethod
        def from_config(cls, config, *, kinds=FEATURES):
            return super().from_config(config, kinds={**kinds, "Mine": Mine})

    found = load_schedule(tmp_path / "mine.safetensors", architectures={**SCHEDULES, "Controller": Knows})
    assert isinstance(found.features, Mine)
