"""The command line: every subcommand runs on small input, and says what is wrong with bad input."""

import json
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import l2o
from l2o import kernels
from l2o.cli.main import COMMANDS, main
from l2o.evaluation.verdicts import read_verdicts

SMALL = ["--task", "quadratics", "--threads", "1"]
TRAIN = ["train", *SMALL, "--optimizer", "dm-quadratics", "--trajectories", "3", "--horizon", "20", "--window", "10",
         "--tasks", "4", "--validation-tasks", "3", "--validation-last", "5", "--validate-every", "1",
         "--checkpoint-every", "1"]  # fmt: skip


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    yield
    torch.set_num_threads(1)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_every_command_shows_an_example_or_says_what_it_does(command, capsys):
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert len(text) > 200
    assert "(default" in text or command in ("list", "report", "doctor")


def test_train_writes_weights_card_figure_log_and_options(tmp_path):
    assert main([*TRAIN, "--out", "run"]) == 0
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert names >= {"weights.safetensors", "weights.toml", "meta-training.png", "events.jsonl", "options.json",
                     "checkpoint.safetensors"}  # fmt: skip
    options = json.loads((tmp_path / "run/options.json").read_text())
    assert options["options"]["trajectories"] == 3
    assert options["options"]["task"]["task"] == "quadratics"
    assert l2o.load_card("run/weights.safetensors").horizon == 20


def test_train_again_goes_on_instead_of_starting_over(tmp_path):
    assert main([*TRAIN, "--out", "run"]) == 0
    before = l2o.load_card("run/weights.safetensors").sha256
    log = (tmp_path / "run/events.jsonl").read_bytes()
    assert main([*TRAIN, "--out", "run"]) == 0
    assert l2o.load_card("run/weights.safetensors").sha256 == before
    assert (tmp_path / "run/events.jsonl").read_bytes() == log


def test_train_with_other_options_into_the_same_folder_is_refused(capsys):
    assert main([*TRAIN, "--out", "run"]) == 0
    assert main([*TRAIN, "--out", "run", "--seed", "5"]) == 1
    assert "of another run" in capsys.readouterr().err


def test_a_run_is_tracked_by_the_services_asked_for(tmp_path):
    assert main([*TRAIN, "--out", "run", "--track", "tensorboard"]) == 0
    assert list((tmp_path / "run/tensorboard/run-1").glob("events.out.tfevents.*"))
    assert json.loads((tmp_path / "run/tracking-tensorboard.json").read_text()) == {"run": "run-1", "events": 10}
    assert main([*TRAIN, "--out", "run", "--track", "tensorboard"]) == 0
    assert [path.name for path in (tmp_path / "run/tensorboard").iterdir()] == ["run-1"]


@pytest.mark.parametrize(
    ("services", "message"),
    [(["mlflow"], "pip install 'l2o[mlflow]'"), (["tensorboard", "tensorboard"], "names one twice; name each once")],
)
def test_a_service_that_cannot_be_had_is_refused_before_anything_is_written(services, message, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "mlflow", None)
    assert main([*TRAIN, "--out", "run", "--track", *services]) == 1
    assert message in capsys.readouterr().err
    assert not Path("run").exists()


def test_a_users_own_task_comes_in_by_module_and_name(tmp_path):
    (tmp_path / "mine.py").write_text(
        "import l2o\n\n\nclass Bowl(l2o.TaskFamily):\n    name = 'bowl'\n\n"
        "    def init(self, instance, rng):\n        return {'x': rng.normal((3,))}\n\n"
        "    def loss(self, params, instance, batch):\n        return params['x'].square().sum()\n"
    )
    sys.modules.pop("mine", None)
    arguments = [*TRAIN, "--out", "run"]
    arguments[2] = "mine:Bowl"
    assert main(arguments) == 0
    assert l2o.load_card("run/weights.safetensors").training_tasks == "bowl"


def test_training_on_the_mixture_with_random_lengths(tmp_path):
    arguments = ["train", "--task", "scale-core", "--threads", "1", "--optimizer", "l2o-scale", "--objective", "log"]
    arguments += ["--trajectories", "2", "--random-horizon", "3", "2", "1", "1.5", "--longest-window", "6"]
    arguments += ["--horizon", "5", "--validation-tasks", "3", "--validation-last", "2", "--validate-every", "1"]
    assert main([*arguments, "--validation-measure", "log-ratio", "--out", "run"]) == 0
    card = l2o.load_card("run/weights.safetensors")
    assert card.training_tasks == "scale-core"
    assert card.horizon == 11  # 2.5 windows of 3 + 2 (1 - exp(-3 / 2)) = 4.55 steps on average
    assert card.configuration["plan"]["horizon"] == {
        "windows": 1, "extra_windows": 1.5, "window": 3, "extra_steps": 2.0, "validation_steps": 5, "longest": 6
    }  # fmt: skip
    events = [json.loads(line) for line in (tmp_path / "run/events.jsonl").read_text().splitlines()]
    assert all(3 <= event["steps"] <= 6 for event in events)


def test_compare_evaluate_and_report_make_the_same_pages(tmp_path):
    assert main([*TRAIN, "--out", "run"]) == 0
    common = [*SMALL, "--steps", "20", "--tasks", "6"]
    assert main(["compare", "run/weights.safetensors", "sgd:0.01", "adam", *common, "--out", "both"]) == 0
    page = (tmp_path / "both/report.html").read_text()
    assert "adam" in page
    record = read_verdicts(tmp_path / "both/verdict.json")
    assert len(record.verdicts) == 2
    (tmp_path / "both/report.html").unlink()
    assert main(["report", "both"]) == 0
    assert (tmp_path / "both/report.html").read_text() == page
    assert main(["evaluate", "adam:0.1", *common, "--out", "one"]) == 0
    assert (tmp_path / "one/curves.png").stat().st_size > 10_000


def test_the_command_of_a_comparison_makes_it_again(tmp_path):
    given = ["compare", "sgd:0.01", "adam:0.1", *SMALL, "--steps", "5", "--tasks", "3", "--last", "2", "--out", "a b"]
    assert main(given) == 0

    def written() -> tuple[dict, bytes]:
        return json.loads((tmp_path / "a b/options.json").read_text()), (tmp_path / "a b/curves.png").read_bytes()

    command = json.loads((tmp_path / "a b/config.json").read_text())["command"]
    assert command.startswith("l2o compare sgd:0.01 adam:0.1 --")
    before = written()
    shutil.rmtree(tmp_path / "a b")
    assert main(shlex.split(command)[1:]) == 0
    assert written() == before


def test_tune_prints_the_best_rate_and_its_budget(tmp_path, capsys):
    arguments = ["tune", "sgd", *SMALL, "--steps", "10", "--tasks", "3", "--low", "0.001", "--high", "0.01"]
    assert main([*arguments, "--out", "tuned"]) == 0
    out = capsys.readouterr().out
    assert "best learning rate" in out
    assert "gradient evaluations" in out
    assert (tmp_path / "tuned/tuning.png").exists()


def test_list_names_everything(capsys):
    assert main(["list"]) == 0
    out = capsys.readouterr().out
    for name in ("quadratics", "fashion-mnist", "rnnprop", "nesterov", "unrolled", "optimizers-cubed/mnist"):
        assert name in out


def test_doctor_finds_nothing_wrong(capsys):
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert "every meta-parameter moved" in out
    assert kernels.available().split()[0] in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "--task", "nonsense"], "no task 'nonsense'; choose one of quadratics"),
        (["train", *SMALL, "--optimizer", "nonsense"], "no optimizer 'nonsense'"),
        (["train", *SMALL, "--optimizer", "json:loads"], "json:loads cannot be called with .seed."),
        (["train", "--task", "json:loads"], "json:loads cannot be called"),
        (["train", "--task", "no_such_module:X"], "cannot import no_such_module:X"),
        (["train", *SMALL, "--horizon", "30", "--window", "20"], "not a whole number of windows"),
        (["train", *SMALL, "--random-horizon", "20", "20", "0", "5"], "windows is 0"),
        (["train", *SMALL, "--random-horizon", "20", "20", "1", "5", "--curriculum", "20", "40"], "pass one"),
        (["train", *SMALL, "--longest-window", "20"], "no effect without --random-horizon"),
        (
            ["train", *SMALL, "--random-horizon", "20", "20", "1", "5", "--longest-window", "10"],
            "longest is 10, below the 20",
        ),
        (["train", "--data", "nonsense"], "no data set 'nonsense'"),
        (["evaluate", "nowhere.safetensors", *SMALL], r"cannot read nowhere\.safetensors"),
        (["evaluate", "adam:fast", *SMALL], "write a rule with its learning rate"),
        (["compare", "adam:0.1", "adam:0.1", *SMALL, "--steps", "5"], "named twice"),
        (["tune", "nonsense", *SMALL], "no rule 'nonsense'"),
        (["reproduce", "nonsense"], "no experiment 'nonsense'; choose one of optimizers-cubed/quadratics"),
        (["report", "nowhere"], "does not describe results"),
    ],
)
def test_bad_input_is_one_clear_line(arguments, message, capsys):
    import re

    assert main(arguments) == 1
    error = capsys.readouterr().err
    assert re.search(message, error), error
    assert "Traceback" not in error


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_training_with_a_checkpoint_and_status_130(tmp_path, number):
    arguments = [*TRAIN, "--out", "run"]
    arguments[arguments.index("--trajectories") + 1] = "100000"
    program = "import sys; from l2o.cli.main import main; sys.exit(main(sys.argv[1:]))"
    with subprocess.Popen([sys.executable, "-c", program, *arguments], stdout=subprocess.PIPE, text=True) as child:
        log = tmp_path / "run/events.jsonl"
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and not (log.exists() and log.stat().st_size > 2000):
            time.sleep(0.1)
        child.send_signal(number)
        out, _ = child.communicate(timeout=60)
    assert child.returncode == 130
    assert "goes on from there" in out
    assert (tmp_path / "run/checkpoint.safetensors").exists()


def test_a_curriculum_with_teachers_shows_a_row_for_every_period(capsys):
    options = ["train", *SMALL, "--optimizer", "dm-quadratics", "--trajectories", "6", "--window", "5", "--tasks", "2",
               "--curriculum", "5", "10", "--periods", "1", "--validate-every", "1", "--validation-tasks", "2",
               "--validation-last", "2", "--teachers", "adam:0.01", "sgd:0.01", "--imitation", "0.5", "1"]  # fmt: skip
    assert main(options) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    periods = [row for row in rows if len(row) == 6 and row[0].isdigit()]
    assert len(periods) >= 6
    assert all(row[2] == {"0": "10", "1": "15"}[row[0]] for row in periods)  # each stage validated at its length


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--curriculum", "20", "10"], "each must be longer"),
        (["--curriculum", "15"], "not a whole number of windows"),
        (["--teachers", "adam"], "write a rule with its learning rate"),
        (["--teachers", "nobody:0.1"], "no rule is called 'nobody'"),
        (["--teachers", "adam:0.1", "--imitation", "2"], "ratio is"),
        (["--horizon", "10", "--window", "20"], "need horizon >= window"),
    ],
)
def test_a_training_that_makes_no_sense_is_refused_at_the_start(options, message, capsys):
    assert main(["train", *SMALL, "--window", "10", *options]) != 0
    assert message in capsys.readouterr().err
