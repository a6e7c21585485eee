"""`l2o train`: every setting is reachable, every combination runs, and what has no effect is refused."""

import itertools
import json
import sys
from dataclasses import fields
from pathlib import Path

import pytest
import torch
import tyro

import l2o
from l2o.cli import choices
from l2o.cli.main import main
from l2o.cli.train import Train
from l2o.experiments.study import logged_meta_losses
from l2o.methods.guided_policy.alternation import BregmanADMM, MirrorDescent
from l2o.methods.guided_policy.cost import NewtonDecrement
from l2o.methods.guided_policy.features import StateFeatures
from l2o.methods.guided_policy.search import Exploration, Fits, Regression, Start
from l2o.tasks.wrappers import ConvexRegulariser, RandomScaling

TINY = ["train", "--threads", "1", "--trajectories", "3", "--window", "2", "--tasks", "2", "--validate-every", "1",
        "--validation-tasks", "2", "--validation-last", "1", "--checkpoint-every", "1", "--out", "run"]  # fmt: skip
OWN_TASK = """
import l2o


class Bowl(l2o.TaskFamily):
    name = "bowl"

    def init(self, instance, rng):
        return {"x": rng.normal((3,)), "y": rng.normal(())}

    def loss(self, params, instance, batch):
        return params["x"].square().sum() + params["y"].square()


bowl = Bowl()
"""


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bowls.py").write_text(OWN_TASK)
    sys.modules.pop("bowls", None)
    yield
    torch.set_num_threads(1)


def parsed(*arguments):
    return tyro.cli(Train, args=list(arguments))


HORIZONS = {"constant": ["--horizon", "4"], "curriculum": ["--curriculum", "2", "4", "--periods", "1"]}
OPTIMIZERS = itertools.cycle(choices.LEARNED)
COMBINATIONS = [
    (*combination, next(OPTIMIZERS))
    for combination in itertools.product(choices.METHODS, HORIZONS, [(), ("adam:0.01", "sgd:0.1")])
]


@pytest.mark.parametrize(("method", "horizon", "teachers", "optimizer"), COMBINATIONS)
def test_every_combination_trains_on_a_users_own_task(method, horizon, teachers, optimizer):
    with_teachers = ["--teachers", *teachers] if teachers else []
    options = ["--task", "bowls:Bowl", "--method", method, "--optimizer", optimizer, *HORIZONS[horizon], *with_teachers]
    assert main([*TINY, *options]) == 0
    card = l2o.load_card("run/weights.safetensors")
    assert card.training_tasks == "bowl"
    assert card.optimizer == type(choices.LEARNED[optimizer](0)).__name__
    described = card.configuration["method"]
    if method == "self-improving":
        helpers = teachers or ("adam", "sgd", "adagrad")
        assert (described["name"], set(described["helpers"])) == ("self-improving", set(helpers))
    elif teachers:
        assert (described["method"]["name"], set(described["teachers"])) == (method, set(teachers))
    else:
        assert described["name"] == method


@pytest.mark.parametrize("name", ["Bowl", "bowl"])
def test_a_users_task_is_named_by_its_class_or_itself(name):
    assert isinstance(parsed("--task", f"bowls:{name}").task.family(), l2o.TaskFamily)


def test_every_setting_of_the_meta_optimizers_is_an_option():
    adam = ["--learning-rate", "0.1", "--final-learning-rate", "0.01", "--clip", "5"]
    assert parsed(*adam).plan().meta_optimizer == l2o.MetaAdam(0.1, 0.01, 5.0)
    rmsprop = ["--meta-optimizer", "rmsprop", "--learning-rate", "0.1", "--final-learning-rate", "0.01", "--decay",
               "0.5", "--epsilon", "1e-8", "--element-clip", "None", "--moments", "shared"]  # fmt: skip
    settings = l2o.MetaRMSprop(0.1, 0.01, decay=0.5, epsilon=1e-8, element_clip=None, moments="shared")
    assert parsed(*rmsprop).plan().meta_optimizer == settings
    assert parsed("--meta-optimizer", "rmsprop").plan().meta_optimizer == l2o.MetaRMSprop()


def test_every_setting_of_the_curriculum_is_an_option():
    options = ["--curriculum", "10", "30", "--validation-steps", "40", "60", "--window", "5", "--periods", "2",
               "--longest-stage", "4", "--no-restore-meta-optimizer"]  # fmt: skip
    plan = parsed(*options).plan()
    assert plan.horizon == l2o.Curriculum((10, 30), (40, 60), window=5, periods=2, longest_stage=4)
    assert not plan.restore_meta_optimizer
    assert parsed("--curriculum", "20", "40").plan().horizon == l2o.Curriculum((20, 40))


def test_guided_policy_search_trains_from_the_command_line():
    options = ["--task", "projected", "--data", "digits", "--optimizer", "predicted-step", "--method",
               "guided-policy-search", "--first-controller", "sgd:0.1", "--horizon", "6", "--window", "6",
               "--coordinates", "8", "--examples", "50", "--passes", "1", "--regression-steps", "2"]  # fmt: skip
    assert main([*TINY, "--trajectories", "2", "--tasks", "4", *options]) == 0
    card = l2o.load_card("run/weights.safetensors")
    assert (card.optimizer, card.configuration["method"]["name"]) == ("PredictedStep", "guided policy search")
    assert card.training_tasks == "projected-48-48-10-digits-batch-64"
    values = [json.loads(line) for line in Path("run/events.jsonl").read_text().splitlines()]
    values = [event["value"] for event in values if event["kind"] == "window" and "value" in event]
    plan = parsed("--trajectories", "2").plan()
    assert logged_meta_losses(Path("run/events.jsonl"), plan, "loss") == [values[1], values[2]]
    assert Path("run/meta-training.png").read_bytes().startswith(b"\x89PNG")


def test_every_setting_of_guided_policy_search_is_an_option():
    options = ["--method", "guided-policy-search", "--first-controller", "adagrad:0.1", "--first-factor", "0.5",
               "--pull", "0.2", "--history", "2", "4", "2", "--fit-window", "3", "--trust", "0.4", "--jitter", "0.2",
               "--widest", "3", "--no-gains-by-trial",
               "--coordinates", "7", "--examples", "None", "--passes", "4", "--regression-steps", "9"]  # fmt: skip
    wanted = l2o.GuidedPolicySearch(
        features=StateFeatures((2, 4, 2)),
        alternation=BregmanADMM(share=0.2),
        exploration=Exploration(jitter=0.2, coordinates=7, examples=None),
        fits=Fits(cost=NewtonDecrement(3), window=3, trust=0.4, widest=3.0, gains=None),
        regression=Regression(passes=4, steps=9),
        start=Start(l2o.Adagrad(0.1), factor=0.5),
    )
    assert parsed(*options).method.made().describe() == wanted.describe()
    mirror = parsed("--method", "guided-policy-search", "--alternation", "mirror").method.made().describe()
    assert mirror["alternation"] == MirrorDescent().describe()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--trust", "1.0"), "--trust is 1.0, and has no effect without --method guided-policy-search"),
        (("--method", "es", "--jitter", "0.1"), "--jitter is 0.1, and has no effect without"),
        (("--method", "guided-policy-search", "--sigma", "0.1"), "--sigma is 0.1, and has no effect with"),
        (
            ("--method", "guided-policy-search", "--teachers", "sgd:0.1"),
            "--teachers is sgd:0.1, and has",
        ),
        (("--method", "guided-policy-search", "--alternation", "mirror", "--pull", "1"), "without --alternation admm"),
    ],
)
def test_settings_of_guided_policy_search_are_refused_elsewhere(options, message):
    with pytest.raises(l2o.errors.ArgumentError, match=message):
        parsed(*options).method.made()


def test_every_setting_of_the_methods_is_an_option():
    imitation = ["--teachers", "adam:0.1", "nesterov:0.2", "--imitation", "0", "0.5", "--teacher-order", "turn",
                 "--corrections", "0.25", "--objective", "log", "--weights", "last"]  # fmt: skip
    wanted = l2o.Imitation(
        l2o.MetaLoss(objective="log", weights="last"),
        teachers={"adam:0.1": l2o.Adam(0.1), "nesterov:0.2": l2o.Nesterov(0.2)},
        ratio=(0.0, 0.5),
        order="turn",
        corrections=0.25,
    )
    assert parsed(*imitation).method.made().describe() == wanted.describe()
    assert parsed("--teachers", "sgd:0.1").method.made().describe()["ratios"] == (0.3,)
    improving = ["--method", "self-improving", "--teachers", "sgd:0.1", "--helper-start", "0.33", "--fade", "7"]
    wanted = l2o.SelfImproving(helpers={"sgd:0.1": l2o.SGD(0.1)}, start=0.33, fade=7)
    assert parsed(*improving).method.made().describe() == wanted.describe()
    perturbing = ["--sigma", "0.1", "--pairs", "3", "--weights", "last", "--objective", "log"]
    settings = {"sigma": 0.1, "pairs": 3, "weights": "last", "objective": "log"}
    wanted = l2o.ES(**settings, shaping="ranks")
    assert parsed("--method", "es", *perturbing, "--shaping", "ranks").method.made().describe() == wanted.describe()
    assert parsed("--method", "pes", *perturbing).method.made().describe() == l2o.PES(**settings).describe()
    with_teacher = parsed("--method", "pes", "--pairs", "3", "--teachers", "sgd:0.1").method.made().describe()
    assert with_teacher["method"] == l2o.PES(pairs=3).describe()


def test_every_field_of_a_plan_is_an_option():
    options = ["--trajectories", "7", "--horizon", "6", "--window", "3", "--tasks", "2", "--validate-every", "4",
               "--validation-tasks", "5", "--validation-last", "1", "--checkpoint-every", "9", "--patience", "8",
               "--seed", "3", "--device", "meta", "--dtype", "float64", "--backend", "reference", "--clip", "1",
               "--curriculum", "3", "6", "--no-restore-meta-optimizer"]  # fmt: skip
    options += ["--validation-measure", "log-ratio"]
    del options[2:4]  # a curriculum takes the place of --horizon
    plan = parsed(*options).plan()
    default = l2o.Plan()
    same = [field.name for field in fields(plan) if getattr(plan, field.name) == getattr(default, field.name)]
    assert same == []


def test_the_network_of_a_task_is_trained_on_the_split_asked_for():
    on_train, on_test = (parsed("--task", "mlp", "--split", split).task.family() for split in ("train", "test"))
    assert [note.split(" images")[0] for note in on_test.data_notes()] == [
        "digits: the last 500 of scikit-learn's 1,797"
    ]
    assert len(on_train.data_notes()) == 2
    params = on_test.init({}, l2o.Stream(0))
    assert "test_accuracy" in on_train.metrics(params, {})
    assert on_test.metrics(params, {}) == {}


def test_training_is_scaled_and_regularised_and_validation_is_not(tmp_path):
    options = ["--task", "quadratics", "--random-scaling", "3", "--convex-regulariser", "5", "--horizon", "4"]
    assert main([*TINY, *options]) == 0
    card = l2o.load_card("run/weights.safetensors")
    assert card.training_tasks == "quadratics-10d-regularised-scaled"
    assert card.configuration["validation family"] == "quadratics-10d"
    kept = json.loads((tmp_path / "run/options.json").read_text())["options"]["task"]
    assert (kept["random_scaling"], kept["convex_regulariser"]) == (3.0, 5)


def test_wrappers_have_the_spreads_and_coordinates_asked_for():
    family = parsed("--task", "quadratics").task.family()
    assert parsed("--task", "quadratics").task.training_family(family) is family
    scaled = parsed("--random-scaling", "2").task.training_family(family)
    assert isinstance(scaled, RandomScaling)
    assert scaled.spread_of == {"x": 2.0}
    regularised = parsed("--convex-regulariser", "5").task.training_family(family)
    assert isinstance(regularised, ConvexRegulariser)
    assert regularised.coordinates == 5
    both = ["--convex-regulariser", "5", "--random-scaling", "2"]
    assert parsed(*both).task.training_family(family).spread_of == {"family/x": 2.0, "regulariser/z": 1.0}
    other = parsed(*both, "--regulariser-scaling", "0.5").task.training_family(family)
    assert other.spread_of == {"family/x": 2.0, "regulariser/z": 0.5}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--imitation", "0.3"], "--imitation is 0.3, and has no effect without --teachers"),
        (["--teacher-order", "turn"], "--teacher-order is turn, and has no effect without --teachers"),
        (["--teachers", "sgd:0.1", "sgd:0.1"], "--teachers is sgd:0.1 sgd:0.1, and names one twice"),
        (["--fade", "5"], "--fade is 5, and has no effect without --method self-improving"),
        (["--helper-start", "0.1"], "--helper-start is 0.1, and has no effect without --method self-improving"),
        (
            ["--method", "self-improving", "--teachers", "adam:0.1", "--imitation", "0", "0.3"],
            "--imitation is 0.0 0.3, and has no effect with --method self-improving",
        ),
        (["--sigma", "0.1"], "--sigma is 0.1, and has no effect without --method es or pes"),
        (["--method", "unrolled", "--pairs", "3"], "--pairs is 3, and has no effect without --method es or pes"),
        (["--shaping", "ranks"], "--shaping is ranks, and has no effect without --method es"),
        (["--method", "pes", "--shaping", "ranks"], "--shaping is ranks, and has no effect without --method es"),
        (
            ["--method", "self-improving", "--pairs", "3"],
            "--pairs is 3, and has no effect with --method self-imp",
        ),
        (["--method", "es", "--fade", "5"], "--fade is 5, and has no effect without --method self-improving"),
        (["--method", "es", "--sigma", "0"], "sigma is 0.0; perturbations need a positive"),
        (["--method", "pes", "--pairs", "0"], "pairs is 0; a window needs at least 1"),
        (["--validation-steps", "20"], "--validation-steps is 20, and has no effect without --curriculum"),
        (["--periods", "2"], "--periods is 2, and has no effect without --curriculum"),
        (["--longest-stage", "2"], "--longest-stage is 2, and has no effect without --curriculum"),
        (["--no-restore-meta-optimizer"], "--restore-meta-optimizer is False, and has no effect without --curriculum"),
        (["--curriculum", "4", "8", "--horizon", "8"], "--horizon is 8, and has no effect beside --curriculum"),
        (["--moments", "shared"], "--moments is shared, and has no effect without --meta-optimizer rmsprop"),
        (["--element-clip", "2"], "--element-clip is 2.0, and has no effect without --meta-optimizer rmsprop"),
        (["--meta-optimizer", "rmsprop", "--clip", "2"], "--clip is 2.0, and has no effect with --meta-optimizer rms"),
        (["--regulariser-scaling", "2"], "--regulariser-scaling is 2.0, and has no effect without"),
        (["--data", "mnist"], "--data is mnist, and has no effect with --task quadratics"),
        (["--split", "test"], "--split is test, and has no effect with --task quadratics"),
        (["--random-scaling", "-1"], "is -1.0; it must be finite and not negative"),
        (["--convex-regulariser", "-1"], "coordinates is -1"),
        (["--curriculum", "4", "8", "--validation-steps", "8"], "1 validation lengths for 2 stages"),
        (
            ["--curriculum", "4", "8", "--teachers", "sgd:0.1", "--imitation", "0", "0.1", "0.3"],
            "ratio is (0.0, 0.1, 0.3), 3 shares of trajectories, and the horizon has 2 stages",
        ),
        (["--method", "self-improving", "--helper-start", "0.5"], "start is 0.5 for each of 3 helpers"),
        (["--meta-optimizer", "rmsprop", "--decay", "1"], "decay is 1.0"),
    ],
)
def test_what_has_no_effect_or_no_meaning_is_refused_at_the_start(options, message, tmp_path, capsys):
    assert main([*TINY, "--task", "quadratics", *options]) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run/checkpoint.safetensors").exists()


def test_the_options_of_a_run_that_was_refused_do_not_stay(tmp_path):
    wrong = ["--task", "quadratics", "--horizon", "4", "--teachers", "sgd:0.1", "--imitation", "0", "0.1"]
    assert main([*TINY, *wrong]) == 1
    assert main([*TINY, *wrong[:-1]]) == 0
    assert json.loads((tmp_path / "run/options.json").read_text())["options"]["method"]["imitation"] == [0.0]
