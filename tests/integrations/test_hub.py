"""Repositories of the Hub through its real client, from a server on this machine that answers as the Hub does."""

import json
import logging
import os
import socket
import subprocess
import sys

import pytest
import safetensors.torch
import torch
from integrations.fake_hub import served

import l2o
from l2o import checkpoint, repository
from l2o.cli.main import main
from l2o.errors import WeightsError
from l2o.sharing.folder import write_repository

huggingface_hub = pytest.importorskip("huggingface_hub")
constants = pytest.importorskip("huggingface_hub.constants")

NAME = "me/dm"
pytestmark = pytest.mark.filterwarnings("default")


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """The fake Hub, as if `HF_ENDPOINT` and `HF_HUB_CACHE` had named it when the client was imported."""
    with served() as found:
        template = found.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "ENDPOINT", found.endpoint)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_PROGRESS_BARS", True)
        monkeypatch.delenv("HF_TOKEN", raising=False)
        yield found


@pytest.fixture
def offline(monkeypatch):
    return lambda: monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


def files_of(agent, folder, **card):
    """The files of a repository with the weights of an agent."""
    l2o.save(agent, folder / "w", l2o.Card(training_tasks="quadratics-10d", horizon=100, **card))
    write_repository(folder / "w.safetensors", folder / "shared", name=NAME)
    return {path.name: path.read_bytes() for path in (folder / "shared").iterdir()}


def same(a, b):
    return checkpoint.digest(a.state_dict()) == checkpoint.digest(b.state_dict()) and a.config() == b.config()


def altered(files, **changes):
    """The files with other entries in config.json."""
    config = {**json.loads(files["config.json"]), **changes}
    return {**files, "config.json": json.dumps(config).encode()}


def test_what_is_pushed_is_what_is_loaded(hub, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_token")
    card = l2o.Card(training_tasks="quadratics-10d", curve=[[0, 2.0], [10, 1.0]], horizon=100)
    l2o.save(l2o.L2ODM(seed=3), tmp_path / "w", card)
    assert main(["push", str(tmp_path / "w.safetensors"), NAME, "--private"]) == 0
    stored = hub.repositories[NAME]
    assert stored.private
    commit = stored.refs["main"]
    assert set(stored.commits[commit]) == {"model.safetensors", "model.toml", "config.json", "README.md", "curve.png"}
    loaded = l2o.load(NAME, revision=commit)
    assert same(loaded, l2o.L2ODM(seed=3))
    assert loaded.horizon == 100
    assert l2o.load_card(NAME, revision=commit).curve == [[0, 2.0], [10, 1.0]]


def test_pushing_again_is_another_commit_and_the_first_can_still_be_had(hub, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HF_TOKEN", "hf_token")
    commits = []
    for seed in (1, 2):
        l2o.save(l2o.L2ODM(seed=seed), tmp_path / "w")
        assert main(["push", str(tmp_path / "w.safetensors"), NAME]) == 0
        commits.append(hub.repositories[NAME].refs["main"])
        assert f"l2o.load('{NAME}', revision='{commits[-1]}')" in capsys.readouterr().out
    assert same(l2o.load(NAME, revision=commits[0]), l2o.L2ODM(seed=1))
    assert same(l2o.load(NAME), l2o.L2ODM(seed=2))


def test_a_schedule_is_pushed_and_loaded_too(hub, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_token")
    l2o.save(l2o.ConstantRates.coin(0.75), tmp_path / "coin")
    assert main(["push", str(tmp_path / "coin.safetensors"), "me/coin"]) == 0
    assert l2o.load_schedule("me/coin").probabilities == (0.75, 0.25)
    assert (
        b"load_schedule" in hub.repositories["me/coin"].commits[hub.repositories["me/coin"].refs["main"]]["README.md"]
    )
    with pytest.raises(WeightsError, match="holds weights of 'ConstantRates'"):
        l2o.load("me/coin")


def test_the_log_tells_the_commit_that_was_taken_unless_it_was_pinned(hub, tmp_path, caplog):
    commit = hub.add(NAME, files_of(l2o.L2ODM(seed=1), tmp_path))
    with caplog.at_level(logging.WARNING, logger="l2o"):
        l2o.load(NAME, revision=commit)
        assert caplog.messages == []
        l2o.load(NAME)
        l2o.load(NAME, revision="main")
    assert len(caplog.messages) == 2
    assert all(f"{NAME}: took commit {commit}" in message for message in caplog.messages)


def test_a_pinned_commit_in_the_cache_needs_no_request(hub, tmp_path):
    commit = hub.add(NAME, files_of(l2o.L2ODM(seed=1), tmp_path))
    l2o.load(NAME, revision=commit)
    hub.requests.clear()
    assert same(l2o.load(NAME, revision=commit), l2o.L2ODM(seed=1))
    assert hub.requests == []


def test_tags_branches_and_the_newest_commit(hub, tmp_path):
    first = hub.add(NAME, files_of(l2o.L2ODM(seed=1), tmp_path / "1"))
    hub.repositories[NAME].refs["v1"] = first
    hub.add(NAME, files_of(l2o.L2ODM(seed=2), tmp_path / "2"))
    assert same(l2o.load(NAME, revision="v1"), l2o.L2ODM(seed=1))
    assert same(l2o.load(NAME), l2o.L2ODM(seed=2))


def test_all_files_are_of_one_commit(hub, tmp_path, monkeypatch):
    hub.add(NAME, files_of(l2o.L2ODM(seed=1), tmp_path / "1"))
    later = files_of(l2o.L2ODM(seed=2), tmp_path / "2")
    download, seen = huggingface_hub.hf_hub_download, []

    def pushed_meanwhile(name, file, **options):
        found = download(name, file, **options)
        if not seen:
            hub.add(NAME, later)
        seen.append(file)
        return found

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", pushed_meanwhile)
    assert same(l2o.load(NAME), l2o.L2ODM(seed=1))
    assert seen == ["config.json", "model.safetensors", "model.toml"]


def test_offline_the_cache_serves(hub, tmp_path, offline):
    commit = hub.add(NAME, files_of(l2o.L2ODM(seed=1), tmp_path))
    l2o.load(NAME)
    hub.requests.clear()
    offline()
    assert same(l2o.load(NAME), l2o.L2ODM(seed=1))
    assert same(l2o.load(NAME, revision=commit), l2o.L2ODM(seed=1))
    assert hub.requests == []


def test_offline_what_is_not_in_the_cache_is_refused(hub, tmp_path, offline):
    hub.add(NAME, files_of(l2o.L2ODM(seed=1), tmp_path))
    offline()
    with pytest.raises(WeightsError, match=r"me/dm at revision main is not in the cache .*HF_HUB_OFFLINE is set.*fol"):
        l2o.load(NAME)
    assert hub.requests == []


@pytest.fixture
def unreachable(monkeypatch):
    """Takes the network away: the Hub's address is one that nobody listens at."""

    def cut():
        with socket.create_server(("127.0.0.1", 0)) as probe:
            closed = f"http://127.0.0.1:{probe.getsockname()[1]}"
        template = closed + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "ENDPOINT", closed)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(huggingface_hub.utils._http.time, "sleep", lambda seconds: None)
        return closed

    return cut


def test_without_a_network_the_cache_serves(hub, tmp_path, unreachable):
    commit = hub.add(NAME, files_of(l2o.L2ODM(seed=1), tmp_path))
    l2o.load(NAME)
    unreachable()
    assert same(l2o.load(NAME), l2o.L2ODM(seed=1))
    assert same(l2o.load(NAME, revision=commit), l2o.L2ODM(seed=1))


def test_without_a_network_what_is_not_in_the_cache_is_refused(hub, unreachable):
    closed = unreachable()
    with pytest.raises(WeightsError, match=rf"not in the cache .*and {closed} cannot be reached; connect"):
        l2o.load(NAME)


def test_an_unknown_repository_and_revision_are_named(hub, tmp_path):
    with pytest.raises(WeightsError, match=rf"no file or folder {NAME} here, and no .* {NAME} at {hub.endpoint}"):
        l2o.load(NAME)
    hub.add(NAME, files_of(l2o.L2ODM(seed=1), tmp_path))
    with pytest.raises(WeightsError, match=r"has no revision 'v9'; pass a commit, a tag or a branch"):
        l2o.load(NAME, revision="v9")


def test_a_file_with_a_wrong_hash_is_refused(hub, tmp_path):
    files, other = files_of(l2o.L2ODM(seed=1), tmp_path / "1"), files_of(l2o.L2ODM(seed=2), tmp_path / "2")
    hub.add(NAME, {**files, "model.safetensors": other["model.safetensors"], "model.toml": other["model.toml"]})
    wanted = json.loads(files["config.json"])["sha256"]
    with pytest.raises(WeightsError, match=rf"model.safetensors of {NAME} has sha256 .* config.json says {wanted}"):
        l2o.load(NAME)


def test_a_card_of_other_weights_is_refused(hub, tmp_path):
    files, other = files_of(l2o.L2ODM(seed=1), tmp_path / "1"), files_of(l2o.L2ODM(seed=2), tmp_path / "2")
    hub.add(NAME, {**files, "model.toml": other["model.toml"]})
    with pytest.raises(WeightsError, match=r"does not belong to the weights beside it.*sha256"):
        l2o.load(NAME)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"library_name": "transformers"}, r"config.json of me/dm is of 'transformers', not of 'l2o'.*l2o import"),
        ({"library_name": None}, r"is of None, not of 'l2o'"),
        ({"format_version": 2}, r"me/dm has format version 2; this l2o .* reads 1: pip install --upgrade l2o"),
        ({"format_version": None}, r"has format version None"),
    ],
)
def test_a_foreign_or_newer_repository_is_refused_before_its_weights_are_fetched(changes, message, hub, tmp_path):
    hub.add(NAME, altered(files_of(l2o.L2ODM(seed=1), tmp_path), **changes))
    with pytest.raises(WeightsError, match=message):
        l2o.load(NAME)
    assert not [request for request in hub.requests if "model.safetensors" in request]


@pytest.mark.parametrize("content", [b"{", b"[]", b"\xff", b"[" * 60_000])
def test_a_config_that_is_no_config_is_refused(content, hub, tmp_path):
    hub.add(NAME, {**files_of(l2o.L2ODM(seed=1), tmp_path), "config.json": content})
    with pytest.raises(WeightsError, match=r"config.json of me/dm is (not JSON|of None)"):
        l2o.load(NAME)


@pytest.mark.parametrize("file", ["config.json", "model.safetensors"])
def test_a_repository_without_a_file_is_refused(file, hub, tmp_path):
    files = files_of(l2o.L2ODM(seed=1), tmp_path)
    hub.add(NAME, {name: content for name, content in files.items() if name != file})
    with pytest.raises(WeightsError, match=rf"me/dm at .* has no {file}; a repository of l2o has model.safe"):
        l2o.load(NAME)


def test_a_repository_without_its_toml_card_is_fine(hub, tmp_path):
    files = files_of(l2o.L2ODM(seed=1), tmp_path)
    hub.add(NAME, {name: content for name, content in files.items() if name != "model.toml"})
    assert same(l2o.load(NAME), l2o.L2ODM(seed=1))


@pytest.mark.parametrize("file", ["config.json", "model.safetensors", "model.toml"])
def test_a_file_that_is_too_large_is_refused_before_it_is_fetched(file, hub, tmp_path):
    hub.add(NAME, files_of(l2o.L2ODM(seed=1), tmp_path))
    hub.sizes[file] = repository.LARGEST[file] + 1
    with pytest.raises(WeightsError, match=rf"{file} of me/dm has [\d,]+ bytes; l2o reads at most"):
        l2o.load(NAME)
    assert not [request for request in hub.requests if request.startswith("GET") and file in request]


def test_a_hub_that_lies_about_a_size_is_found_out(hub, tmp_path, monkeypatch):
    hub.add(NAME, files_of(l2o.L2ODM(seed=1), tmp_path))
    monkeypatch.setitem(repository.LARGEST, "model.safetensors", 1000)
    hub.sizes["model.safetensors"] = 999
    with pytest.raises(WeightsError, match=r"me/dm could not be fetched|has [\d,]+ bytes"):  # the client counts too
        l2o.load(NAME)


def test_only_safetensors_json_and_toml_are_ever_asked_for(hub, tmp_path):
    hub.add(NAME, {**files_of(l2o.L2ODM(seed=1), tmp_path), "pytorch_model.bin": b"\x80", "l2o.py": b"raise"})
    l2o.load(NAME)
    assert {request.rsplit("/", 1)[1] for request in hub.requests} == {"config.json", "model.safetensors", "model.toml"}


def test_a_private_repository_needs_a_token(hub, tmp_path, monkeypatch):
    hub.add(NAME, files_of(l2o.L2ODM(seed=1), tmp_path))
    hub.repositories[NAME].private = True
    with pytest.raises(WeightsError, match="log in with `hf auth login` if it is private"):
        l2o.load(NAME)
    monkeypatch.setenv("HF_TOKEN", "hf_token")
    assert same(l2o.load(NAME), l2o.L2ODM(seed=1))


def test_pushing_without_a_token_is_one_clear_line(hub, tmp_path, capsys):
    l2o.save(l2o.L2ODM(), tmp_path / "w")
    assert main(["push", str(tmp_path / "w.safetensors"), NAME]) == 1
    assert f"{NAME} could not be pushed to {hub.endpoint}" in (error := capsys.readouterr().err)
    assert "hf auth login" in error
    assert hub.repositories == {}


def test_a_hub_that_is_out_of_order_is_said_to_be_so(hub, tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.utils._http.time, "sleep", lambda seconds: None)
    hub.broken = True
    with pytest.raises(WeightsError, match=r"me/dm .*(could not be fetched from|cannot be reached)"):
        l2o.load(NAME)


def test_a_repository_on_the_command_line_with_its_revision(hub, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    commit = hub.add(NAME, files_of(l2o.L2ODM.for_quadratics(seed=1), tmp_path))
    hub.add(NAME, altered(files_of(l2o.L2ODM.for_quadratics(seed=2), tmp_path / "2"), format_version=9))
    small = ["--task", "quadratics", "--threads", "1", "--steps", "5", "--tasks", "2", "--out", "one"]
    assert main(["evaluate", f"{NAME}@{commit}", *small]) == 0
    torch.set_num_threads(1)
    assert (tmp_path / "one/report.html").exists()


def test_weights_of_pylo_are_imported_from_the_hub(hub, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shapes = {"input": (4, 39), "linear_0": (4, 4), "output": (2, 4)}
    tensors = {f"network.{name}.weight": torch.ones(shape) for name, shape in shapes.items()}
    tensors |= {f"network.{name}.bias": torch.zeros(shape[0]) for name, shape in shapes.items()}
    files = {"model.safetensors": safetensors.torch.save(tensors), "config.json": b'{"hidden_size": 4}'}
    commit = hub.add("btherien/mulo", files)
    assert main(["import", "pylo-small-fc", f"btherien/mulo@{commit}", "--out", "mulo"]) == 0
    assert l2o.load("mulo.safetensors").hidden == 4
    assert f"Imported from btherien/mulo@{commit} (sha256 " in l2o.load_card("mulo.safetensors").notes


def test_the_environment_names_hub_cache_and_mode(hub, tmp_path):
    commit = hub.add(NAME, files_of(l2o.L2ODM(seed=1), tmp_path))
    program = f"import l2o; print(l2o.load({NAME!r}).name)"
    surroundings = {**os.environ, "HF_ENDPOINT": hub.endpoint, "HF_HUB_CACHE": str(tmp_path / "another")}
    for more in ({}, {"HF_HUB_OFFLINE": "1"}):
        hub.requests.clear()
        done = subprocess.run(
            [sys.executable, "-c", program], env={**surroundings, **more}, capture_output=True, text=True, check=True
        )
        assert done.stdout == "L2O-DM\n"
        assert f"took commit {commit}" in done.stderr
        assert bool(hub.requests) == (not more)


def test_front_matter_is_what_the_hub_reads(tmp_path):
    files_of(l2o.L2ODM(seed=1), tmp_path, notes="a: b\n---\nlicense: other")
    found = huggingface_hub.ModelCard.load(tmp_path / "shared" / "README.md").data
    assert (found.license, found.library_name) == ("apache-2.0", "l2o")
    assert {"learned-optimizer", "learning-to-optimize", "l2o-l2odm"} <= set(found.tags)
