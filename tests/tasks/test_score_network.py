"""Score networks: shipped ones are what their cards say, training is deterministic, damaged files are refused."""

import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import l2o
from l2o import checkpoint
from l2o.errors import ArgumentError, DataError, WeightsError
from l2o.tasks.data import Dataset, halved
from l2o.tasks.score_network import load_score_network, save_score_network
from l2o.tasks.score_training import RECIPES, score_data, train_score_network

FOLDER = Path(l2o.__file__).parent / "pretrained" / "scores"
SHIPPED = [name for name in RECIPES if name != "cifar-10"]
BRIEF = replace(RECIPES["digits"], epochs=1)


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_network_and_its_card_are_small_and_belong_together(name):
    path = FOLDER / f"{name}.safetensors"
    network = load_score_network(name)
    _, inside = checkpoint.read(path, kind="score network")
    card = tomllib.loads(path.with_suffix(".toml").read_text())
    assert card == inside
    assert path.stat().st_size < 500_000
    assert not card["commit"].endswith("+dirty")
    assert network.name == f"score network {name}, test accuracy {card['test_accuracy']:.4f}"
    assert len(network.data_notes) == 2
    logs, features = network.outputs(torch.rand(3, *network.image))
    assert logs.exp().sum(1).tolist() == pytest.approx([1.0] * 3, abs=1e-5)
    assert features.shape == (3, 64)


def test_score_networks_are_no_optimizers():
    assert not set(l2o.shipped()) & set(RECIPES)


def test_the_network_for_digits_is_as_accurate_as_its_card_says():
    network, test = load_score_network("digits"), score_data("digits", "test")
    logs, _ = network.outputs(test.inputs[:, None].double() / 255)
    accuracy = (logs.argmax(1) == test.labels).double().mean().item()
    assert accuracy == pytest.approx(
        network.test_accuracy, abs=0.0021
    )  # one image of 500, where sums are in another order
    assert accuracy > 0.975


def test_training_is_deterministic_and_learns():
    state = torch.get_rng_state()
    first, again, other = (train_score_network("digits", seed, recipe=BRIEF) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(leaf, again.params[name]) for name, leaf in first.params.items())
    assert not torch.equal(first.params["linear.1.weight"], other.params["linear.1.weight"])
    assert first.test_accuracy > 0.5
    assert not any(leaf.requires_grad for leaf in first.params.values())


def test_a_network_comes_back_from_its_file_exactly_or_not_at_all(tmp_path):
    network, path = load_score_network("digits"), tmp_path / "mine.safetensors"
    save_score_network(network, path, training={"seed": 0})
    again = load_score_network(path)
    assert (again.name, again.image, again.data_notes) == (network.name, network.image, network.data_notes)
    assert all(torch.equal(leaf, network.params[name]) for name, leaf in again.params.items())
    blob = bytearray(path.read_bytes())
    blob[-5] ^= 1
    path.write_bytes(blob)
    with pytest.raises(WeightsError, match=r"mine.safetensors was altered"):
        load_score_network(path)
    path.write_bytes(blob[:1000])
    with pytest.raises(WeightsError, match="truncated"):
        load_score_network(path)
    with pytest.raises(WeightsError, match="cannot read"):
        load_score_network(tmp_path / "none.safetensors")
    with pytest.raises(WeightsError, match="not a 'score network'"):
        load_score_network(FOLDER.parent / "dm-quadratics.safetensors")


def test_a_network_whose_accuracy_was_not_measured_comes_back(tmp_path):
    network = replace(load_score_network("digits"), test_accuracy=float("nan"))
    save_score_network(network, tmp_path / "mine.safetensors", training={})
    again = load_score_network(tmp_path / "mine.safetensors")
    assert again.name == network.name == "score network digits, test accuracy not measured"


def test_a_card_of_another_network_or_version_is_refused(tmp_path):
    network, path = load_score_network("digits"), tmp_path / "mine.safetensors"
    save_score_network(network, path, training={"seed": 0})
    card = path.with_suffix(".toml")
    text = card.read_text()
    for altered, message in ((text.replace("seed = 0", "seed = 1"), "does not belong to"), ("[", "cannot be read")):
        card.write_text(altered)
        with pytest.raises(WeightsError, match=message):
            load_score_network(path)
    card.unlink()
    assert load_score_network(path).name == network.name
    checkpoint.write(path, network.params, {"data": "digits"}, kind="score network")
    with pytest.raises(WeightsError, match="a card of another version"):
        load_score_network(path)


def test_outputs_do_not_depend_on_how_many_images_come_at_once():
    network, images = load_score_network("digits"), torch.rand(2_100, 1, 8, 8)
    alone = network.outputs(images[2_050:2_051])[0]
    assert torch.allclose(network.outputs(images)[0][2_050], alone[0], atol=1e-5)  # float32 sums in another order


def test_what_does_not_fit_is_refused():
    with pytest.raises(ArgumentError, match="no score network 'svhn'; there are digits, mnist"):
        train_score_network("svhn", 0)
    with pytest.raises(WeightsError, match="no score network 'cifar-10' is shipped, but cifar-10-grey-16x16, digits"):
        load_score_network("cifar-10")
    with pytest.raises(ArgumentError, match=r"images have shape \(2, 8, 8\); .* takes \[samples, 1, 8, 8\]"):
        load_score_network("digits").outputs(torch.zeros(2, 8, 8))


def test_images_are_halved_by_means_over_channels_and_blocks():
    pixels = torch.arange(2 * 3 * 4 * 2, dtype=torch.uint8).reshape(2, 3, 4, 2)
    data = Dataset("two", pixels, torch.tensor([0, 1]), classes=2, complete=True, note="two images")
    small = halved(data)
    assert small.inputs.shape == (2, 2, 1)
    assert small.inputs[0, 0, 0] == round((0 + 1 + 2 + 3 + 8 + 9 + 10 + 11 + 16 + 17 + 18 + 19) / 12)
    assert (small.name, small.note) == ("two-grey-2x1", "two images, in grey at 2x1")
    with pytest.raises(DataError, match="images of 3x2; only even sizes"):
        halved(replace(data, inputs=pixels[:, :, :3]))
