"""Weights files and their cards."""

import shutil
import tomllib

import pytest
import torch
from cases import every_learned

import l2o
from l2o import checkpoint
from l2o.errors import WeightsError
from l2o.optimizers.handcrafted import SGD


def equal(a, b):
    return checkpoint.digest(a.state_dict()) == checkpoint.digest(b.state_dict()) and a.config() == b.config()


@every_learned
def test_load_gives_back_what_save_wrote(make, tmp_path):
    optimizer = make(seed=3)
    card = l2o.save(optimizer, tmp_path / "w", l2o.Card(method="meta-loss", horizon=100, seed=3, notes='a "quoted" ü'))
    loaded = l2o.load(tmp_path / "w.safetensors")
    assert type(loaded) is type(optimizer)
    assert equal(loaded, optimizer)
    assert loaded.horizon == 100
    assert l2o.load_card(tmp_path / "w.safetensors") == card
    written = tomllib.loads((tmp_path / "w.toml").read_text())
    assert written["sha256"] == card.sha256
    assert written["notes"] == 'a "quoted" ü'


def test_the_card_may_be_missing(tmp_path):
    l2o.save(l2o.L2ODM(), tmp_path / "w")
    (tmp_path / "w.toml").unlink()
    assert equal(l2o.load(tmp_path / "w.safetensors"), l2o.L2ODM())


def test_a_card_of_other_weights_is_refused(tmp_path):
    l2o.save(l2o.L2ODM(), tmp_path / "a")
    l2o.save(l2o.L2ODM(seed=1), tmp_path / "b")
    shutil.copy(tmp_path / "a.toml", tmp_path / "b.toml")
    with pytest.raises(WeightsError, match=r"does not belong.*sha256"):
        l2o.load(tmp_path / "b.safetensors")


def test_an_altered_card_is_refused(tmp_path):
    l2o.save(l2o.L2ODM(), tmp_path / "w", l2o.Card(horizon=100))
    card = tmp_path / "w.toml"
    card.write_text(card.read_text().replace("horizon = 100", "horizon = 1000"))
    with pytest.raises(WeightsError, match="differs in horizon"):
        l2o.load(tmp_path / "w.safetensors")
    for content in (b"\xff\x00 = [", b"horizon = " + b"9" * 5000, b"horizon = " + b"[" * 100_000):
        card.write_bytes(content)
        with pytest.raises(WeightsError, match=r"card .*w\.toml cannot be read"):
            l2o.load(tmp_path / "w.safetensors")


def test_a_checkpoint_is_not_weights(tmp_path):
    checkpoint.write(tmp_path / "c.safetensors", {}, {}, kind="checkpoint")
    with pytest.raises(WeightsError, match="not a 'weights'"):
        l2o.load(tmp_path / "c.safetensors")


def test_an_unknown_class_is_refused_and_can_be_brought(tmp_path):
    class Mine(SGD):
        pass

    l2o.save(Mine(0.5), tmp_path / "mine")
    with pytest.raises(WeightsError, match="'Mine', known are"):
        l2o.load(tmp_path / "mine.safetensors")
    mine = l2o.load(tmp_path / "mine.safetensors", architectures={**l2o.ARCHITECTURES, "Mine": Mine})
    assert mine.config() == {"lr": 0.5}


def test_weights_that_do_not_fit_their_class_are_refused(tmp_path):
    class Other(l2o.L2ODM):
        def config(self):
            return {"k": -1.0}

    l2o.save(Other(), tmp_path / "w")
    with pytest.raises(WeightsError, match="does not fit"):
        l2o.load(tmp_path / "w.safetensors", architectures={"Other": l2o.L2ODM})


def test_unknown_names_list_what_is_shipped():
    with pytest.raises(WeightsError, match="no shipped weights of that name"):
        l2o.load("nonexistent-weights")


def test_a_folder_that_is_no_repository_is_refused(tmp_path):
    l2o.save(l2o.L2ODM(), tmp_path / "w")
    with pytest.raises(WeightsError, match=r"has no config\.json.*Pass the \.safetensors file itself"):
        l2o.load(tmp_path)


def test_only_a_repository_has_revisions(tmp_path):
    l2o.save(l2o.L2ODM(), tmp_path / "w")
    for source in (tmp_path / "w.safetensors", "rnnprop-mnist", tmp_path):
        with pytest.raises(WeightsError, match="has no revisions, and revision is 'v1'"):
            l2o.load(source, revision="v1")


def test_a_config_that_asks_for_more_than_the_file_holds_is_refused_before_it_is_built(tmp_path):
    class Greedy(l2o.L2ODM):
        def config(self):
            return {**super().config(), "hidden": 10**6}  # 16 TB of weights

    l2o.save(Greedy(), tmp_path / "w")
    with pytest.raises(WeightsError, match=r"does not fit Greedy: cell1.weight: \(22, 80\) there, \(1000002, 4"):
        l2o.load(tmp_path / "w.safetensors", architectures={"Greedy": l2o.L2ODM})


def test_the_card_says_of_what_kind_the_weights_are(tmp_path):
    assert l2o.save(l2o.L2ODM(), tmp_path / "a").kind == "optimizer"
    assert l2o.save(l2o.InTurn((0, 1)), tmp_path / "b").kind == "schedule"


def test_shipped_weights_load_and_step():
    for name in l2o.shipped():
        optimizer = l2o.load(name)
        card = l2o.load_card(name)
        assert card.training_tasks
        assert card.curve
        assert card.horizon == optimizer.horizon
        weight = torch.nn.Parameter(torch.ones(3))
        torch_optimizer = optimizer.as_torch([weight])
        loss = weight.square().sum()
        loss.backward()
        torch_optimizer.step(**({"loss": loss} if "loss" in optimizer.reads else {}))
        assert not torch.equal(weight, torch.ones(3))


def test_the_shipped_policy_trains_a_larger_network_on_other_images():
    family = l2o.ProjectedClassification.large(l2o.load_dataset("digits", "train"))
    tasks, whole = l2o.Stream(1, tasks=range(2)), l2o.TrueObjective(every=100)
    curves = l2o.run_curves(l2o.load("predicted-step-mnist"), family, tasks, steps=400, true_objective=whole)
    slow = l2o.run_curves(l2o.SGD(0.1), family, tasks, steps=400, true_objective=whole)
    assert (curves.true_losses[:, 0] > 2).all()
    assert (curves.true_losses[:, -1] < slow.true_losses[:, -1]).all()
    assert (curves.true_losses[:, -1] < 0.1).all()


@pytest.mark.parametrize("name", ["rnnprop-mnist", "dm-cl-il-mnist", "rnnprop-cl-il-mnist"])
def test_shipped_weights_train_a_network_that_they_have_never_seen(name):
    family = l2o.MLPClassifier.orig(l2o.load_dataset("digits", "train"), test=l2o.load_dataset("digits", "test"))
    curves = l2o.run_curves(l2o.load(name), family, l2o.Stream(1, tasks=range(2)), steps=500)
    assert (curves.losses[:, 0] > 2).all()
    assert (curves.losses[:, -20:].mean(1) < 0.05).all()
    assert (curves.metrics["test_accuracy"] > 0.93).all()
