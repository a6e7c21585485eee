"""Repositories as folders: what is written is loaded again, and what is not theirs is refused."""

import json
import re
import shlex
import shutil
import sys
import tomllib

import pytest
import tyro
from cases import every_learned

import l2o
from l2o import checkpoint, hub, repository
from l2o.cli.main import main
from l2o.cli.options import command_line
from l2o.cli.train import Train
from l2o.errors import ArgumentError, UnsupportedError, WeightsError
from l2o.sharing.citations import CITATIONS
from l2o.sharing.folder import write_repository

SCHEDULES = {
    "controller": lambda: l2o.Controller(l2o.MeasureFeatures(["progress", "loss/mse"]), 2, hidden=[4]),
    "in turn": lambda: l2o.InTurn.ratio(1, 3),
    "rates": lambda: l2o.ConstantRates.coin(0.75),
    "rates in time": lambda: l2o.RatesInTime([[0.5, 0.5], [0.1, 0.9]]),
    "threshold": lambda: l2o.Threshold("a", "b", 2.0),
    "recorded": lambda: l2o.Recorded([0, 1, 1], 2),
}
CARD = l2o.Card(
    method="meta-loss",
    training_tasks="quadratics-10d",
    horizon=100,
    seed=3,
    configuration={"plan": {"trajectories": 20}},
    curve=[[0, 5.0], [10, 0.5], [20, 0.75]],
    data=["digits: the first 1,297"],
    commit="abc",
    backend="reference",
    command="l2o train --task quadratics",
    notes="a | b",
)


def written(agent, tmp_path, card=CARD, **options):
    """The folder of a repository with the weights of an agent."""
    l2o.save(agent, tmp_path / "w", card)
    write_repository(tmp_path / "w.safetensors", tmp_path / "shared", name="me/mine", **options)
    return tmp_path / "shared"


def equal(a, b):
    return checkpoint.digest(a.state_dict()) == checkpoint.digest(b.state_dict()) and a.config() == b.config()


@every_learned
def test_a_folder_gives_back_the_optimizer(make, tmp_path):
    optimizer = make(seed=3)
    folder = written(optimizer, tmp_path)
    loaded = l2o.load(folder)
    assert type(loaded) is type(optimizer)
    assert equal(loaded, optimizer)
    assert loaded.horizon == 100
    assert l2o.load_card(folder) == l2o.load_card(tmp_path / "w.safetensors")
    config = json.loads((folder / "config.json").read_text())
    assert (config["library_name"], config["format_version"], config["kind"]) == ("l2o", 1, "optimizer")
    assert (config["class"], config["config"]) == (type(optimizer).__name__, optimizer.config())


@pytest.mark.parametrize("make", SCHEDULES.values(), ids=SCHEDULES.keys())
def test_a_folder_gives_back_the_schedule(make, tmp_path):
    schedule = make()
    folder = written(schedule, tmp_path)
    assert equal(l2o.load_schedule(folder), schedule)
    assert json.loads((folder / "config.json").read_text())["kind"] == "schedule"
    assert "l2o.load_schedule(" in (folder / "README.md").read_text()


def test_a_folder_has_weights_cards_configuration_and_curve(tmp_path):
    folder = written(l2o.L2ODM(), tmp_path)
    names = {path.name for path in folder.iterdir()}
    assert names == {"model.safetensors", "model.toml", "config.json", "README.md", "curve.png"}
    assert (folder / "model.safetensors").read_bytes() == (tmp_path / "w.safetensors").read_bytes()
    assert tomllib.loads((folder / "model.toml").read_text()) == tomllib.loads((tmp_path / "w.toml").read_text())
    assert (folder / "curve.png").read_bytes().startswith(b"\x89PNG")


def test_a_curve_of_one_point_is_no_picture_and_an_old_picture_goes(tmp_path):
    folder = written(l2o.L2ODM(), tmp_path)
    folder = written(l2o.L2ODM(), tmp_path, l2o.Card(curve=[[0, 5.0]]))
    assert not (folder / "curve.png").exists()
    assert "curve.png" not in (folder / "README.md").read_text()


def test_a_repository_is_written_into_its_own_folder_again(tmp_path):
    folder = written(l2o.L2ODM(seed=1), tmp_path)
    write_repository(folder, folder, name="me/other")
    assert equal(l2o.load(folder), l2o.L2ODM(seed=1))
    assert "me/other" in (folder / "README.md").read_text()


def test_the_model_card_tells_what_the_card_knows(tmp_path):
    text = (written(l2o.L2ODM(), tmp_path) / "README.md").read_text()
    front, body = text.split("---\n")[1:]
    assert [line for line in front.splitlines() if "tag" not in line][:2] == [
        'license: "apache-2.0"', "library_name: l2o"
    ]  # fmt: skip
    assert '- "learned-optimizer"' in front
    for part in ("# L2ODM meta-trained on quadratics-10d", "| meta-parameters | 5,141 |", "| method | meta-loss |",
                 "0.5 after 10 trajectories; 5 at the first validation", "l2o train --task quadratics", "curve.png",
                 'l2o.load("me/mine", revision=', "meta-trained for 100 steps", "## Intended use", "## Limits", "a | b",
                 "andrychowicz2016learning", '"trajectories": 20', "digits: the first 1,297"):  # fmt: skip
        assert part in body, part


def test_a_card_that_says_nothing_is_still_a_page(tmp_path):
    text = (written(l2o.SGD(0.5), tmp_path, l2o.Card()) / "README.md").read_text()
    assert "The card says nothing about it." in text
    assert "No paper is known to the library for the class `SGD`." in text
    assert "steps. What it does after" not in text


def test_nothing_in_a_card_reaches_the_front_matter(tmp_path):
    card = l2o.Card(training_tasks="x\n---\nlicense: other", notes="---\nlibrary_name: other\n---")
    front = (written(l2o.L2ODM(), tmp_path, card) / "README.md").read_text().split("---\n")[1]
    assert re.findall(r"^[a-z_]+:.*", front, re.MULTILINE) == ['license: "apache-2.0"', "library_name: l2o", "tags:"]


def test_every_architecture_that_learns_has_its_paper():
    rules = {"SGD", "Momentum", "Nesterov", "RMSprop", "Adam", "Adagrad"}
    assert set(CITATIONS) == set(l2o.ARCHITECTURES) - rules | {"Controller"}
    for text in CITATIONS.values():
        assert text.count("{") == text.count("}")


@pytest.mark.parametrize("license", ["", "MIT", "mit\ntags: x", "a b"])
def test_a_license_is_an_identifier(license, tmp_path):
    with pytest.raises(ArgumentError, match="pass an identifier in lower case"):
        written(l2o.L2ODM(), tmp_path, license=license)


def test_weights_of_no_known_kind_are_refused(tmp_path):
    shutil.copy(l2o.weights.find("rnnprop-mnist"), tmp_path / "old.safetensors")  # from before cards said so
    with pytest.raises(ArgumentError, match=r"holds weights of kind ''; pass kind: one of optimizer, schedule"):
        write_repository(tmp_path / "old.safetensors", tmp_path / "shared", name="me/mine")
    write_repository(tmp_path / "old.safetensors", tmp_path / "shared", name="me/mine", kind="optimizer")
    assert l2o.load(tmp_path / "shared").name == "RNNprop"


def test_altered_weights_in_a_folder_are_refused(tmp_path):
    folder = written(l2o.L2ODM(seed=1), tmp_path / "1")
    other = written(l2o.L2ODM(seed=2), tmp_path / "2")
    for file in ("model.safetensors", "model.toml"):
        shutil.copy(other / file, folder / file)
    with pytest.raises(WeightsError, match=r"model\.safetensors of .* has sha256 .* its config\.json says .*altered"):
        l2o.load(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"library_name": "transformers"}, r"config\.json of .* is of 'transformers', not of 'l2o'.*l2o import"),
        ({"format_version": 2}, r"has format version 2; this l2o .* reads 1: pip install --upgrade l2o"),
        ({"format_version": "1"}, r"has format version 1"),
        ({"sha256": None}, r"its config\.json says None"),
    ],
)
def test_a_folder_that_is_foreign_or_newer_is_refused(changes, message, tmp_path):
    folder = written(l2o.L2ODM(), tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))
    with pytest.raises(WeightsError, match=message):
        l2o.load(folder)


@pytest.mark.parametrize("content", [b"{", b"[]", b"\xff", b"[" * 60_000, b"9" * 10_000])
def test_a_config_that_is_no_config_is_refused(content, tmp_path):
    folder = written(l2o.L2ODM(), tmp_path)
    (folder / "config.json").write_bytes(content)
    with pytest.raises(WeightsError, match=r"config\.json of .* is (not JSON|of None)"):
        l2o.load(folder)


@pytest.mark.parametrize("file", ["config.json", "model.safetensors"])
def test_a_folder_without_a_file_is_refused(file, tmp_path):
    folder = written(l2o.L2ODM(), tmp_path)
    (folder / file).unlink()
    with pytest.raises(WeightsError, match=rf"has no {file}"):
        l2o.load(folder)


@pytest.mark.parametrize("file", ["config.json", "model.safetensors", "model.toml"])
def test_a_file_that_is_too_large_is_refused(file, tmp_path, monkeypatch):
    folder = written(l2o.L2ODM(), tmp_path)
    monkeypatch.setitem(repository.LARGEST, file, 10)
    with pytest.raises(WeightsError, match=rf"{file} of .* has [\d,]+ bytes; l2o reads at most 10"):
        l2o.load(folder)


def test_names_of_repositories():
    assert hub.is_name("me/dm-quadratics.v2")
    for other in ("rnnprop-mnist", "a/b/c", "/a/b", "../b", "a/", "a/../b", "~/b", "a b/c", "a/b\n"):
        assert not hub.is_name(other)


def test_a_dry_run_writes_a_folder_and_needs_no_client(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    for weights in ("rnnprop-mnist", "dm-quadratics"):
        assert main(["push", weights, f"me/{weights}", "--dry-run", str(tmp_path / weights), "--license", "mit"]) == 0
        assert "Nothing was pushed" in capsys.readouterr().out
        assert equal(l2o.load(tmp_path / weights), l2o.load(weights))
        assert 'license: "mit"' in (tmp_path / weights / "README.md").read_text()


def test_a_repository_of_the_hub_without_its_client_is_refused_with_the_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    for load in (l2o.load, l2o.load_schedule, l2o.load_card):
        with pytest.raises(UnsupportedError, match=r"me/mine is no file or folder here.*pip install 'l2o\[hub\]'"):
            load("me/mine")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["push", "rnnprop-mnist", "mine"], "name is 'mine'; write a repository as user/name"),
        (["push", "nowhere", "me/mine"], "no shipped weights of that name"),
        (["push", "rnnprop-mnist", "me/mine"], "pip install 'l2o[hub]'"),
    ],
)
def test_a_push_that_cannot_be_is_one_clear_line(arguments, message, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert main(arguments) == 1
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        "",
        "--task quadratics --seed 3 --curriculum 10 30 --no-restore-meta-optimizer --teachers adam:0.1 sgd:0.1",
        "--random-horizon 20 20 1 5 --longest-window 30 --meta-optimizer rmsprop --element-clip None --threads 1",
    ],
)
def test_a_command_of_options_gives_these_options(words):
    options = tyro.cli(Train, args=shlex.split(words))
    line = shlex.split(command_line("train", options))
    assert line[:2] == ["l2o", "train"]
    assert tyro.cli(Train, args=line[2:]) == options
