"""Plants known faults in a copy of the library, one at a time, and sees whether the tests notice each.

    python scripts/plant_faults.py                 all of them, about a quarter of an hour
    python scripts/plant_faults.py --only NAME     one of them; may be repeated
    python scripts/plant_faults.py --list          their names

A fault is one textual replacement of the kind that a tired author makes: a sign, an index, a line left out. It counts
as caught only when a test fails: a file that no longer imports and a test that hangs do not count. At least 27 of every
30 must be caught. The working tree is never altered.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NEEDED = 0.9
PATIENCE = 120.0
"""Seconds for the tests of one fault, or three times as many as all tests took without a fault, if that is more."""


@dataclass(frozen=True)
class Fault:
    """One replacement in one file.

    Args:
        name: what goes wrong.
        file: path below `src/l2o`.
        before: text that occurs exactly once in the file.
        after: what stands there instead.
        tests: arguments of pytest: files, or single tests of slow files, that ought to notice.
    """

    name: str
    file: str
    before: str
    after: str
    tests: tuple[str, ...]


REPLAY = ("tests/test_replay.py",)
META_OPTIMIZER = ("tests/test_meta_optimizer.py",)
CURRICULUM = ("tests/test_horizons.py", "tests/methods/test_imitation.py")
KERNELS = ("tests/kernels/test_accuracy.py", "tests/kernels/test_native.py", "tests/kernels/test_select.py")
CHECKPOINT = ("tests/test_checkpoint.py",)
STREAMS = ("tests/test_rng.py",)
SHARED = ("tests/test_ranks.py",)
LEARNED = ("tests/optimizers/test_learned.py",)
HIERARCHICAL = ("tests/optimizers/test_hierarchical.py",)
WEIGHTS = ("tests/optimizers/test_weights.py",)
SHARING = ("tests/sharing/test_repository.py",)
FOREIGN = ("tests/foreign/test_foreign.py",)
TRACKING = ("tests/tracking/test_trackers.py",)
CURVES = ("tests/evaluation/test_compare.py",)
LOCAL_CONTROL = ("tests/methods/test_lqg.py",)
GUIDED = tuple(
    f"tests/methods/test_guided_search.py::test_{name}"
    for name in (
        "gains_are_of_mean_one_and_noise_is_redrawn",
        "a_worse_controller_is_dropped_and_the_trust_region_shrinks",
        "of_the_proposed_controllers_those_that_help_are_kept",
        "without_a_solution_the_old_controllers_are_valued_on_the_new_tasks",
        "a_policy_run_along_samples_in_parts_does_what_it_does_at_once",
        "a_run_killed_anywhere_resumes_to_the_same_bits",
    )
)
GUIDED_GAINS = ("tests/methods/test_guided_gains.py",)
GUIDED_FEATURES = ("tests/methods/test_guided_features.py",)
ALTERNATION = ("tests/methods/test_guided_alternation.py",)
MIXTURE = ("tests/tasks/test_mixture.py",)
GAN_LOSSES = ("tests/tasks/test_gan.py::test_losses_and_gradients_are_those_of_plain_modules",)
GAN_METRICS = ("tests/tasks/test_gan.py::test_metrics_are_the_scores_of_the_samples",)
SCORES = ("tests/tasks/test_scores.py",)
REPLICATED = ("tests/processes/test_replicated_losses.py",)
POLICY = ("tests/methods/test_policy_gradient.py",)
SCHEDULES = ("tests/schedules/test_schedules.py", "tests/schedules/test_features.py")
STEPPING = ("tests/contract/test_torch_optimizer.py",)
STATE = ("tests/contract/test_torch_state.py",)
REFUSALS = ("tests/contract/test_torch_refusals.py",)
PRECISION = ("tests/contract/test_torch_precision.py",)
CHANGES = ("tests/contract/test_torch_changes.py",)
SHARDS = ("tests/contract/test_torch_shards.py",)
TWO_PROCESSES = ("tests/integrations/test_distributed.py",)


def metatrain(*names: str) -> tuple[str, ...]:
    """Single tests: the whole file takes a minute."""
    return tuple(f"tests/test_metatrain.py::test_{name}" for name in names)


KILLED = metatrain("a_run_killed_anywhere_resumes_to_the_same_bits")

FAULTS = [
    # Schedules.
    Fault(
        "a choice moves groups that it does not name",
        "processes/replicated_losses.py",
        "            touched = torch.stack([used[pair] for pair in pairs]).any(0)\n",
        "            touched = torch.ones_like(self.alive)\n",
        REPLICATED,
    ),
    Fault(
        "own optimizers are shared",
        "processes/replicated_losses.py",
        'return pair[1] if settings.optimizer_state == "group" else ":".join(pair)',
        "return pair[1]",
        REPLICATED,
    ),
    Fault(
        "a repeated choice sees the same minibatch again",
        "processes/replicated_losses.py",
        'rng.child("batch") if turn == 0 else rng.child(f"batch {turn}")',
        'rng.child("batch")',
        REPLICATED,
    ),
    Fault(
        "runs in common have starts of their own",
        "processes/replicated_losses.py",
        "return rng.over([rng.tasks[0]] * len(rng.tasks)) if settings.common else rng",
        "return rng",
        REPLICATED,
    ),
    Fault(
        "a run is judged by its worst validation",
        "processes/judging.py",
        '(fresh < self.best) if goal.better == "lower"',
        '(fresh > self.best) if goal.better == "lower"',
        REPLICATED,
    ),
    Fault(
        "patience is counted from the start",
        "processes/judging.py",
        "waited=torch.where(better, 0, self.waited + alive.long())",
        "waited=self.waited + alive.long()",
        REPLICATED,
    ),
    Fault(
        "a policy gradient that climbs down",
        "methods/policy_gradient.py",
        "torch.autograd.grad(-aim,",
        "torch.autograd.grad(aim,",
        POLICY,
    ),
    Fault(
        "a baseline with the run itself in it",
        "methods/policy_gradient.py",
        "others = (rewards.sum() - rewards) / (len(rewards) - 1)",
        "others = rewards.mean()",
        POLICY,
    ),
    Fault(
        "the moving average is renewed before it is subtracted",
        "methods/policy_gradient.py",
        "_clipped(rewards - baseline, self.clip, self.least)",
        "_clipped(rewards - value, self.clip, self.least)",
        POLICY,
    ),
    Fault(
        "decisions of dead runs count",
        "methods/policy_gradient.py",
        "record.alive[:, :-1].to(features.dtype)",
        "torch.ones_like(record.alive[:, :-1]).to(features.dtype)",
        POLICY,
    ),
    Fault(
        "an entropy penalty in the place of a bonus",
        "methods/policy_gradient.py",
        "aim = aim + entropy *",
        "aim = aim - entropy *",
        POLICY,
    ),
    Fault(
        "what a method remembers is lost on resume",
        "outer_loop.py",
        '        self.memory = trees.select(tensors, "carried")\n',
        "",
        POLICY,
    ),
    Fault(
        "ppo without its clip",
        "methods/ppo.py",
        "bounded = ratio.clamp(1 - self.clip, 1 + self.clip)",
        "bounded = ratio",
        POLICY,
    ),
    Fault(
        "the normaliser never freezes",
        "schedules/features.py",
        "        if int(learnt) >= self.episodes:\n            return\n",
        "",
        SCHEDULES,
    ),
    Fault(
        "equal probabilities are always the first choice",
        "schedules/base.py",
        "passed = probabilities.cumsum(1) <= draw[:, None] * probabilities.sum(1, keepdim=True)",
        "passed = probabilities < probabilities.max(1, keepdim=True).values",
        SCHEDULES,
    ),
    # The rollout.
    Fault(
        "agent state not carried from step to step",
        "rollout.py",
        "action, moved = driver(seen, states, owned=step > 0 and bool(process.alive.all()))",
        "action, moved = driver(seen, entry)",
        REPLAY,
    ),
    Fault(
        "state of a dead task not frozen",
        "rollout.py",
        "trees.where_tasks(process.alive, state, states[name])",
        "state",
        REPLAY,
    ),
    Fault(
        "state not carried between windows",
        "rollout.py",
        "torch.stack(alive, dim=1), entry, states, process)",
        "torch.stack(alive, dim=1), entry, entry, process)",
        REPLAY,
    ),
    Fault(
        "replay starts from the state after the window",
        "rollout.py",
        "torch.stack(alive, dim=1), entry, states, process)",
        "torch.stack(alive, dim=1), states, states, process)",
        REPLAY,
    ),
    Fault(
        "last observation is the one before",
        "rollout.py",
        "seen, hidden = process.observe()",
        "seen, hidden = process.observe() if step < steps else (seen, hidden)",
        REPLAY,
    ),
    Fault(
        "a task counts as alive at the step at which it died",
        "rollout.py",
        "alive.append(process.alive)",
        "alive.append(process.survivors)",
        REPLAY,
    ),
    # The replay.
    Fault(
        "replay forgets the state",
        "agent.py",
        "action, state = self(observation, state)",
        "action, _ = self(observation, state)",
        REPLAY,
    ),
    Fault(
        "replay ignores explicit meta-parameters",
        "kernels/reference.py",
        "torch.func.functional_call(agent, dict(theta), (observation, state))",
        "agent(observation, state)",
        REPLAY,
    ),
    Fault(
        "replay one observation late",
        "replay.py",
        "record.observations[:-1]",
        "record.observations[1:]",
        REPLAY,
    ),
    Fault(
        "gradient of the last piece only",
        "kernels/reference.py",
        "total = trees.map_leaves(torch.add, total, dict(zip(theta, grads, strict=True)))",
        "total = dict(zip(theta, grads, strict=True))",
        REPLAY,
    ),
    Fault(
        "slopes in reversed order",
        "kernels/targets.py",
        "(self.slopes[step, :, coordinates]",
        "(self.slopes[-1 - step, :, coordinates]",
        REPLAY,
    ),
    Fault(
        "last coordinate lost at the boundary of a piece",
        "optimizers/base.py",
        "for start in range(0, max(coordinates, 1), width):",
        "for start in range(0, coordinates - 1, width):",
        LEARNED,
    ),
    # The meta-loss, first and second order.
    Fault(
        "later gradients include the step's own",
        "methods/meta_loss.py",
        "weights[step + 1][:, None] * grads[step + 1]",
        "weights[step][:, None] * grads[step]",
        REPLAY,
    ),
    Fault(
        "weight of the iterate before",
        "methods/meta_loss.py",
        "weights[step + 1][:, None] * grads[step + 1]",
        "weights[step][:, None] * grads[step + 1]",
        REPLAY,
    ),
    Fault(
        "sign of the later gradients flipped",
        "methods/meta_loss.py",
        "total = total + weights",
        "total = total - weights",
        REPLAY,
    ),
    Fault(
        "meta-gradient summed, not averaged, over tasks",
        "methods/meta_loss.py",
        "return slopes / grads[0].shape[0]",
        "return slopes",
        REPLAY,
    ),
    Fault(
        "slope of the logarithm forgotten",
        "methods/meta_loss.py",
        'if objective == "loss" else 1 / (losses + _TINY)',
        'if objective == "loss" else torch.ones_like(losses)',
        REPLAY,
    ),
    Fault(
        "meta-loss averaged over dead tasks too",
        "methods/meta_loss.py",
        "means = sums.sum(0) / counts.sum(0)",
        "means = sums.sum(0) / (len(counts) * counts.any(0))",
        REPLAY,
    ),
    Fault(
        "share of diverged tasks as of the window's start",
        "methods/meta_loss.py",
        "float(alive.double().mean())",
        'float(by_task["alive"][:, 0].double().mean())',
        REPLAY,
    ),
    Fault(
        "second derivatives dropped",
        "methods/unrolled.py",
        "create_graph=True, materialize_grads=True",
        "retain_graph=True, materialize_grads=True",
        REPLAY,
    ),
    Fault(
        "unrolled state not detached between windows",
        "methods/unrolled.py",
        '"agent": _detached(state)}',
        '"agent": state}',
        REPLAY,
    ),
    Fault(
        "unrolled windows all draw the first window's minibatches",
        "methods/unrolled.py",
        "step=process.step + steps)",
        "step=process.step)",
        REPLAY,
    ),
    Fault(
        "unrolled tasks never noted as dead",
        "methods/unrolled.py",
        "survivors=trajectory.process.survivors & alive.all(1))",
        "survivors=trajectory.process.survivors)",
        REPLAY,
    ),
    # The optimizee.
    Fault(
        "parameters of a dead task not frozen",
        "processes/optimizee.py",
        "params = trees.where_tasks(self.alive, moved, self.params)",
        "params = moved",
        REPLAY,
    ),
    Fault(
        "a dead task comes back to life",
        "processes/optimizee.py",
        "alive = self.survivors & torch.isfinite(losses)",
        "alive = torch.isfinite(losses)",
        REPLAY,
    ),
    Fault(
        "a gradient that is not finite goes unnoticed",
        "processes/optimizee.py",
        " & trees.finite_tasks(grads)",
        "",
        REPLAY,
    ),
    Fault(
        "every step draws the same minibatch",
        "processes/optimizee.py",
        'self.rng.child("batch").at(step=self.step)',
        'self.rng.child("batch")',
        REPLAY,
    ),
    Fault(
        "a restored trajectory starts over with its minibatches",
        "processes/optimizee.py",
        'survivors=snapshot["survivors"], step=step)',
        'survivors=snapshot["survivors"], step=0)',
        REPLAY,
    ),
    Fault(
        "a restored trajectory takes dead tasks for alive",
        "processes/optimizee.py",
        'survivors=snapshot["survivors"], step=step)',
        'survivors=torch.ones_like(snapshot["survivors"]), step=step)',
        REPLAY,
    ),
    Fault(
        "starts and instances drawn from one stream",
        "processes/optimizee.py",
        'family.init(instance, rng.child("init"))',
        'family.init(instance, rng.child("instance"))',
        REPLAY,
    ),
    # Networks and rules.
    Fault(
        "gates i and f swapped",
        "nn.py",
        "i, j, f, o = gates.chunk(4)",
        "f, j, i, o = gates.chunk(4)",
        LEARNED,
    ),
    Fault("forget offset missing", "nn.py", "torch.sigmoid(f + 1.0)", "torch.sigmoid(f)", LEARNED),
    Fault(
        "preprocessing clamped above too",
        "optimizers/dm.py",
        ".clamp(min=-1.0)",
        ".clamp(-1.0, 1.0)",
        LEARNED,
    ),
    Fault(
        "second layer fed with the first layer's state",
        "optimizers/dm.py",
        'cell2(h1, batch["h2"], batch["c2"])',
        'cell2(h1, batch["h1"], batch["c1"])',
        LEARNED,
    ),
    Fault(
        "first moment corrected with the second's decay",
        "optimizers/rnnprop.py",
        "m / bias_correction(self.beta1, step)",
        "m / bias_correction(self.beta2, step)",
        LEARNED,
    ),
    Fault(
        "second moment never corrected",
        "optimizers/rnnprop.py",
        "(v / bias_correction(self.beta2, step)[:, None]).sqrt()",
        "v.sqrt()",
        LEARNED,
    ),
    Fault(
        "bias correction one step late",
        "nn.py",
        "-torch.expm1(step * (",
        "-torch.expm1((step + 1) * (",
        LEARNED,
    ),
    Fault(
        "gates keep the candidate in place of the old state",
        "optimizers/hierarchical.py",
        "return u * h + (1 - u) * c",
        "return (1 - u) * h + u * c",
        HIERARCHICAL,
    ),
    Fault(
        "the problem's level sees the last tensor alone",
        "optimizers/hierarchical.py",
        "self.cell2(h1.mean(-1, keepdim=True), h2)",
        "self.cell2(h1[..., -1:], h2)",
        HIERARCHICAL,
    ),
    Fault(
        "mean learning rate taken over all tasks",
        "optimizers/hierarchical.py",
        'now["log_rate"].mean(-1, keepdim=True)',
        'now["log_rate"].mean()',
        HIERARCHICAL,
    ),
    Fault(
        "a clipped learning rate stops gradients",
        "optimizers/hierarchical.py",
        "(wanted.clamp(-self.limit, self.limit) - wanted).detach()",
        "(wanted.clamp(-self.limit, self.limit) - wanted)",
        HIERARCHICAL,
    ),
    Fault(
        "every time scale decays alike",
        "optimizers/hierarchical.py",
        "decays.append(decays[-1].sqrt())",
        "decays.append(decays[-1])",
        HIERARCHICAL,
    ),
    Fault(
        "one learning rate at the start for a whole tensor",
        "optimizers/hierarchical.py",
        'draw.child("coordinates").uniform((coordinates,), **ends)',
        'draw.child("coordinates").uniform((1,), **ends).expand(tasks, coordinates)',
        HIERARCHICAL,
    ),
    # Random streams.
    Fault(
        "trajectory dropped from the key",
        "rng.py",
        "self.names, self.trajectory, self.step))",
        "self.names, self.step))",
        STREAMS,
    ),
    Fault(
        "step dropped from the key",
        "rng.py",
        "self.names, self.trajectory, self.step))",
        "self.names, self.trajectory))",
        STREAMS,
    ),
    Fault(
        "task keyed by its place in the batch",
        "rng.py",
        "for task in self.tasks]",
        "for task in range(len(self.tasks))]",
        STREAMS,
    ),
    # Checkpoints and weights.
    Fault(
        "digest ignores names",
        "checkpoint.py",
        "[name, str(leaf.dtype), list(leaf.shape)]",
        "[str(leaf.dtype), list(leaf.shape)]",
        CHECKPOINT,
    ),
    Fault(
        "digest ignores shapes",
        "checkpoint.py",
        "[name, str(leaf.dtype), list(leaf.shape)]",
        "[name, str(leaf.dtype)]",
        CHECKPOINT,
    ),
    Fault(
        "a file is written in place",
        "checkpoint.py",
        'tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")',
        "os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), str(path)",
        CHECKPOINT,
    ),
    Fault(
        "file moved into place before it is on the disk",
        "checkpoint.py",
        "            os.fsync(file.fileno())\n",
        "",
        CHECKPOINT,
    ),
    Fault(
        "new name of a file not on the disk",
        "checkpoint.py",
        "        os.fsync(folder)\n",
        "        pass\n",
        CHECKPOINT,
    ),
    Fault(
        "a file without a digest is taken on trust",
        "checkpoint.py",
        "if stated != found:",
        "if stated is not None and stated != found:",
        CHECKPOINT,
    ),
    Fault(
        "card beside the weights not checked",
        "weights.py",
        '    check_card(path.with_suffix(".toml"), {**values, "sha256": sha256})\n',
        "",
        WEIGHTS,
    ),
    Fault(
        "shapes that a configuration asks for not compared",
        "weights.py",
        "        _check_shapes(kind, card.config, tensors)\n",
        "",
        WEIGHTS,
    ),
    Fault(
        "altered weights of a repository accepted",
        "repository.py",
        '    if found != config.get("sha256"):\n',
        "    if False:\n",
        SHARING,
    ),
    Fault(
        "repository of another library accepted",
        "repository.py",
        '    if library != "l2o":\n',
        "    if False:\n",
        SHARING,
    ),
    Fault(
        "newer repository accepted",
        "repository.py",
        "    if not isinstance(version, int) or version > FORMAT:\n",
        "    if False:\n",
        SHARING,
    ),
    Fault(
        "file of a repository of any size read",
        "repository.py",
        "    if size > LARGEST[file]:\n",
        "    if False:\n",
        SHARING,
    ),
    Fault(
        "pickled arrays not refused",
        "foreign/arrays.py",
        "    if dtype.hasobject:\n",
        "    if False:\n",
        FOREIGN,
    ),
    Fault(
        "arrays that a rule does not need ignored",
        "foreign/arrays.py",
        "for name in {**shapes, **found} if",
        "for name in shapes if",
        FOREIGN,
    ),
    Fault(
        "features of RNNprop's authors not exchanged",
        "foreign/lv.py",
        '        "input.weight": found["input.weight"].flip(0),\n',
        "",
        FOREIGN,
    ),
    Fault(
        "update of RNNprop's authors added",
        "foreign/lv.py",
        '        "output.bias": -found["output.bias"],\n',
        "",
        FOREIGN,
    ),
    Fault(
        "decays of PyLO in another order",
        "foreign/pylo.py",
        "torch.tensor(decays).split",
        "torch.tensor(decays).flip(0).split",
        FOREIGN,
    ),
    Fault(
        "events told again reach a service twice",
        "tracking/base.py",
        "        if 0 < number < self._heard:\n            return\n",
        "",
        TRACKING,
    ),
    Fault(
        "events that a service missed not taken from the log",
        "tracking/base.py",
        "        self._catch_up(number)\n",
        "",
        TRACKING,
    ),
    Fault(
        "a service's failure reaches the meta-training",
        "tracking/base.py",
        "        except Exception as error:\n            self._failed = True\n",
        "        except ZeroDivisionError as error:\n            self._failed = True\n",
        TRACKING,
    ),
    Fault(
        "a run that begins again added to the old one of a service",
        "tracking/base.py",
        "            self._run, self._heard, self._pace = None, 0, _Pace()\n",
        "            self._heard, self._pace = 0, _Pace()\n",
        TRACKING,
    ),
    Fault(
        "validations count as time of a trajectory",
        "tracking/base.py",
        '        if "window" in event and passed is not None:\n',
        "        if passed is not None:\n",
        TRACKING,
    ),
    Fault(
        "trained horizon not loaded",
        "weights.py",
        "    agent.horizon = card.horizon or None\n",
        "",
        WEIGHTS,
    ),
    # Meta-training and its resumption.
    Fault(
        "moments not restored on resume",
        "outer_loop.py",
        '        self.meta_optimizer.load(trees.select(tensors, "moments"))\n',
        "",
        KILLED,
    ),
    Fault(
        "count of Adam's steps not restored on resume",
        "meta_optimizer.py",
        '{**found, "step": found["step"].cpu()}',
        '{**found, "step": torch.zeros(())}',
        KILLED,
    ),
    Fault(
        "best meta-parameters not restored on resume",
        "outer_loop.py",
        'self.best_parameters = trees.select(tensors, "best")',
        "self.best_parameters = snapshot(self.optimizer)",
        metatrain("a_resumed_run_remembers_the_best_from_before_it_stopped"),
    ),
    Fault(
        "a resumed trajectory stands at the wrong step",
        "outer_loop.py",
        "steps = sum(lengths[: self.progress.window])",
        "steps = self.progress.windows * lengths[0]",
        metatrain("a_resumed_run_draws_the_minibatches_of_its_step"),
    ),
    Fault(
        "log not rewound on resume",
        "outer_loop.py",
        '            self._rewind(self.log, path, metadata["log_position"])\n',
        "            pass\n",
        metatrain("events_stand_in_the_log_once_and_in_order"),
    ),
    Fault(
        "last meta-parameters come back, not the best",
        "outer_loop.py",
        "        self.agent.load_state_dict(self.best_parameters)\n        self.agent.horizon",
        "        self.agent.horizon",
        metatrain("the_best_validation_is_what_comes_back"),
    ),
    Fault(
        "best meta-parameters go on being trained",
        "meta_optimizer.py",
        "leaf.detach().clone(), agent.state_dict()",
        "leaf.detach(), agent.state_dict()",
        metatrain("the_best_validation_is_what_comes_back"),
    ),
    Fault(
        "validation on the training tasks",
        "outer_loop.py",
        'Stream(plan.seed, ("validation",)',
        'Stream(plan.seed, ("train",)',
        metatrain("a_diverging_validation_is_infinitely_bad", "validation_meets_the_same_tasks_each_time"),
    ),
    Fault(
        "validation value from the first iterates",
        "sources.py",
        "curves.losses[:, -self.last :]",
        "curves.losses[:, : self.last]",
        metatrain("a_validation_is_the_mean_of_the_last_iterates"),
    ),
    Fault(
        "a window without a finite meta-gradient is stepped",
        "outer_loop.py",
        "        if usable:\n",
        "        if estimate.gradient:\n",
        metatrain("skipped_windows_are_counted_and_change_nothing"),
    ),
    Fault(
        "skipped windows counted as in a row when they are not",
        "outer_loop.py",
        "            progress.skipped_in_a_row = 0\n",
        "",
        metatrain("only_skipped_windows_in_a_row_exhaust_the_patience"),
    ),
    Fault(
        "meta learning rate stays where it began",
        "outer_loop.py",
        "share = progress.trajectory / self.plan.trajectories",
        "share = 0.0",
        metatrain("the_meta_learning_rate_follows_the_share_of_trajectories_done"),
    ),
    Fault(
        "meta learning rate not handed to Adam",
        "meta_optimizer.py",
        '        self._adam.param_groups[0]["lr"] = learning_rate\n',
        "",
        metatrain("a_first_meta_step_is_as_long_as_the_meta_learning_rate_of_its_time"),
    ),
    Fault(
        "every trajectory meets the same tasks",
        "outer_loop.py",
        "trajectory=self.progress.trajectory, tasks=tasks)",
        "tasks=tasks)",
        metatrain("skipped_windows_are_counted_and_change_nothing"),
    ),
    Fault(
        "a window in which every task died is stepped",
        "outer_loop.py",
        " and estimate.value - estimate.value == 0",
        "",
        metatrain("skipped_windows_are_counted_and_change_nothing"),
    ),
    Fault(
        "no checkpoint at the end",
        "outer_loop.py",
        "        self._save()\n        self.agent.load_state_dict(self.best_parameters)",
        "        self.agent.load_state_dict(self.best_parameters)",
        metatrain("a_finished_run_called_again_gives_its_result"),
    ),
    Fault(
        "time of earlier calls forgotten",
        "outer_loop.py",
        "self.started = time.perf_counter() - self.progress.seconds",
        "self.started = time.perf_counter()",
        metatrain("a_finished_run_called_again_gives_its_result"),
    ),
    Fault(
        "the mean square of RMSprop starts at zero",
        "meta_optimizer.py",
        "trees.map_leaves(torch.ones_like, parameters)",
        "trees.map_leaves(torch.zeros_like, parameters)",
        META_OPTIMIZER,
    ),
    Fault(
        "epsilon of RMSprop stands outside the root",
        "meta_optimizer.py",
        "(self._mean_square[name] + epsilon).sqrt()",
        "(self._mean_square[name].sqrt() + epsilon)",
        META_OPTIMIZER,
    ),
    Fault(
        "all losses share the mean squares of RMSprop",
        "meta_optimizer.py",
        '{"own": loss, "shared": "shared"}[self.moments]',
        '"shared"',
        META_OPTIMIZER,
    ),
    Fault(
        "validation on the wrapped tasks of training",
        "sources.py",
        "run_curves(agent, self.validation_family",
        "run_curves(agent, self.family",
        metatrain("validations_are_on_the_validation_family"),
    ),
    Fault(
        "the validation family does not count as part of the run",
        "sources.py",
        "    if validation_family is not family:\n",
        "    if not validation_family:\n",
        metatrain("the_validation_family_is_part_of_the_run"),
    ),
    Fault(
        "nobody asks what teachers read",
        "metatrain.py",
        "    readers |= {who: rule.reads for who, rule in method.companions().items()}\n",
        "",
        metatrain("what_does_not_fit_together_is_refused_before_anything_runs"),
    ),
    Fault(
        "a resumed trajectory has its parameters in the order of the file",
        "processes/optimizee.py",
        'params = {name: snapshot[f"params/{name}"] for name in self.params}',
        'params = trees.select(snapshot, "params")',
        REPLAY,
    ),
    # Curves.
    Fault(
        "state not carried along a curve",
        "curves.py",
        "state = trees.where_tasks(process.alive, moved, state)",
        "state = trees.where_tasks(process.alive, state, state)",
        CURVES,
    ),
    Fault(
        "a dead task shows loss zero",
        "curves.py",
        'torch.where(process.alive, hidden["loss"].double(), torch.nan)',
        'hidden["loss"].double()',
        metatrain("a_diverging_validation_is_infinitely_bad"),
    ),
    Fault(
        "second batch of a curve repeats the first tasks",
        "curves.py",
        "rng.over(tasks[start : start + at_once])",
        "rng.over(tasks[: min(at_once, len(tasks) - start)])",
        CURVES,
    ),
    Fault(
        "evaluation of the last iterate not counted",
        "curves.py",
        "evaluations=steps + 1,",
        "evaluations=steps,",
        CURVES,
    ),
    # Mixtures, noisy gradients, random lengths.
    Fault(
        "every task of a curve gets the first one's family",
        "curves.py",
        "members = [family.member(rng.over((task,))) for task in rng.tasks]",
        "members = [family.member(rng) for _ in rng.tasks]",
        MIXTURE,
    ),
    Fault(
        "the process keeps the mixture",
        "processes/optimizee.py",
        "        family = family.member(rng)\n",
        "",
        MIXTURE,
    ),
    Fault(
        "another family in every trajectory",
        "tasks/mixture.py",
        ".at(trajectory=rng.trajectory // self.trajectories_each)",
        "",
        MIXTURE,
    ),
    # Adversarial networks and their scores.
    Fault(
        "loss of the discriminator not halved",
        "tasks/gan.py",
        "+ softplus(about_generated).mean(1)) / 2",
        "+ softplus(about_generated).mean(1))",
        GAN_LOSSES,
    ),
    Fault(
        "real and generated images change places",
        "tasks/gan.py",
        "softplus(-about_real)",
        "softplus(about_real)",
        GAN_LOSSES,
    ),
    Fault(
        "generator maximises the saturating loss",
        "tasks/gan.py",
        "else -softplus(logits)",
        "else softplus(logits)",
        GAN_LOSSES,
    ),
    Fault(
        "real images in [0, 1] beside a tanh",
        "tasks/gan.py",
        ".float() / 127.5 - 1",
        ".float() / 255",
        ("tests/tasks/test_gan.py::test_images_are_scaled_as_the_networks_need_them",),
    ),
    Fault(
        "first layer of a discriminator normalised",
        "tasks/gan_architecture.py",
        "[0 if generates else 1 :]",
        "[0:]",
        GAN_LOSSES,
    ),
    Fault(
        "features of images in [-1, 1]",
        "tasks/gan.py",
        "self.scores.outputs(self._unit(self._real(self._references)))",
        "self.scores.outputs(self._real(self._references))",
        GAN_METRICS,
    ),
    Fault(
        "verdict of a discriminator turned round",
        "tasks/gan.py",
        "(about_real <= 0)",
        "(about_real >= 0)",
        GAN_METRICS,
    ),
    Fault(
        "marginal of the inception score not a mean",
        "tasks/scores.py",
        "logs.logsumexp(0)",
        "logs.mean(0)",
        SCORES,
    ),
    Fault(
        "covariances of the distance not mixed",
        "tasks/scores.py",
        "- 2 * mixed",
        "- mixed",
        SCORES,
    ),
    Fault(
        "roots of covariances left out",
        "tasks/scores.py",
        "_root(covariances[0]) @",
        "covariances[0] @",
        SCORES,
    ),
    Fault(
        "a mixture is known by its first family",
        "sources.py",
        "for member in family.members()})",
        "for member in family.members()[:1]})",
        metatrain("a_changed_member_of_the_same_name_is_refused"),
    ),
    Fault(
        "the meta-loss differentiates the noise",
        "processes/optimizee.py",
        "trees.join(metagrad=grads)",
        "trees.join(metagrad=self.shown(grads))",
        ("tests/tasks/test_wrappers.py", *REPLAY),
    ),
    Fault(
        "one noise for all steps",
        "processes/optimizee.py",
        'self.rng.child("noise").at(step=self.step)',
        'self.rng.child("noise")',
        ("tests/tasks/test_wrappers.py",),
    ),
    Fault(
        "random lengths drawn from the tasks",
        "horizons.py",
        'rng.child("horizon").over((0,)).generators()',
        'rng.child("horizon").over(rng.tasks[-1:]).generators()',
        ("tests/test_horizons.py",),
    ),
    # Several processes.
    Fault(
        "uneven shares of the tasks weighed alike",
        "ranks.py",
        "weights = [size / tasks for size in self._sizes(tasks)]",
        "weights = [1 / self.count] * self.count",
        SHARED,
    ),
    Fault(
        "all processes run the first tasks",
        "ranks.py",
        "return range(start, start + sizes[self.rank])",
        "return range(sizes[self.rank])",
        SHARED,
    ),
    Fault(
        "tasks of the last process before those of the first",
        "ranks.py",
        "torch.cat(tables)",
        "torch.cat(tables[::-1])",
        SHARED,
    ),
    Fault(
        "copies of tasks taken for tasks",
        "ranks.py",
        "leaf.unflatten(0, (-1, tasks))[:, share].flatten(0, 1) for",
        "leaf.unflatten(0, (tasks, -1))[share].flatten(0, 1) for",
        SHARED,
    ),
    Fault(
        "each process draws a mixture's family for its own tasks",
        "sources.py",
        "family = self.family.member(rng.over((0,)))",
        "family = self.family",
        SHARED,
    ),
    Fault(
        "a trajectory ends where the tasks of one process have died",
        "outer_loop.py",
        "or not someone_alive:",
        "or not bool(survivors.any()):",
        SHARED,
    ),
    Fault(
        "a signal stops the process that gets it alone",
        "outer_loop.py",
        "someone_alive, self.stopping = self.ranks.any(bool(survivors.any()), self.stop.is_set())",
        "(someone_alive,), self.stopping = self.ranks.any(bool(survivors.any())), self.stop.is_set()",
        SHARED,
    ),
    # Curriculum, imitation, self-improving.
    Fault(
        "curriculum does not go back to the best",
        "outer_loop.py",
        "            self.agent.load_state_dict(self.best_parameters)\n            if plan",
        "            if plan",
        CURRICULUM,
    ),
    Fault(
        "curriculum forgets the moments of its best",
        "outer_loop.py",
        "self.meta_optimizer.load(self.best_moments)",
        "pass",
        CURRICULUM,
    ),
    Fault(
        "best moments are those of the end",
        "outer_loop.py",
        "self.best_moments = trees.map_leaves(torch.clone, self.meta_optimizer.tree())",
        "self.best_moments = self.meta_optimizer.tree()",
        CURRICULUM,
    ),
    Fault(
        "curriculum leaves a stage at once",
        "horizons.py",
        "not better and here.periods >= self.periods",
        "not better",
        CURRICULUM,
    ),
    Fault(
        "baseline of a stage counts as a period",
        "horizons.py",
        "return replace(here, best=value, baseline=False)",
        "return replace(here, best=value, baseline=False, periods=1)",
        CURRICULUM,
    ),
    Fault(
        "student's state is not carried along the teacher's path",
        "methods/imitation.py",
        '{**states, "agent": agent, "teacher": taught, "distance": total}',
        '{**states, "teacher": taught, "distance": total}',
        CURRICULUM,
    ),
    Fault(
        "the student drives instead of its teacher",
        "methods/imitation.py",
        "        action, _, after = _both(",
        "        _, action, after = _both(",
        CURRICULUM,
    ),
    Fault(
        "imitation at all stages alike",
        "methods/imitation.py",
        "self.ratios[min(stage, len(self.ratios) - 1)]",
        "self.ratios[0]",
        CURRICULUM,
    ),
    Fault(
        "helpers' steps are differentiated too",
        "methods/self_improving.py",
        "Linear(slopes * own)",
        "Linear(slopes)",
        CURRICULUM,
    ),
    Fault(
        "helpers never fade",
        "methods/self_improving.py",
        "max(0.0, 1 - rng.trajectory / self.fade)",
        "1.0",
        CURRICULUM,
    ),
    Fault(
        "a waiting optimizer's state stands still",
        "methods/self_improving.py",
        'moved: States = {"agent": agent,',
        'moved: States = {"agent": trees.where_tasks(turn == 0, agent, states["agent"]),',
        CURRICULUM,
    ),
    # The kernels.
    Fault(
        "bias correction one step late in the native kernel",
        "kernels/native.py",
        "torch.arange(1, steps + 1, dtype=torch.float64)",
        "torch.arange(0, steps, dtype=torch.float64).clamp(min=1)",
        KERNELS,
    ),
    Fault(
        "the native kernel takes one decay for the other",
        "kernels/native.py",
        "keep1=1 - cell.beta1,",
        "keep1=1 - cell.beta2 ** 2,",
        KERNELS,
    ),
    Fault(
        "the native kernel takes a squared target for a linear one",
        "kernels/native.py",
        "importance is not None\n",
        "False\n",
        KERNELS,
    ),
    Fault(
        "an unpacked state is read as if it were packed",
        "kernels/native.py",
        "    if not all(map(is_packed, leaves.values())):\n",
        "    if False:\n",
        KERNELS,
    ),
    Fault(
        "the native step loses the step counter",
        "kernels/native.py",
        'return {"step": state["step"] + 1}',
        'return {"step": state["step"]}',
        KERNELS,
    ),
    Fault(
        "a forked process computes with threads that it does not have",
        "kernels/native.py",
        "    _forked = True\n",
        "    _forked = False\n",
        KERNELS,
    ),
    Fault(
        "the native kernel answers where gradients are recorded",
        "kernels/select.py",
        "return _REFERENCE if torch.is_grad_enabled() and kernel is not _COMPILED else kernel",
        "return kernel",
        KERNELS,
    ),
    Fault(
        "the native kernel answers for a derived rule",
        "optimizers/base.py",
        'if "update" in vars(cls) and "cell" not in vars(cls):',
        "if False:",
        KERNELS,
    ),
    Fault(
        "the environment variable outranks the keyword",
        "kernels/select.py",
        'VARIABLE) if own == "auto" else own',
        'VARIABLE) if own != "reference" else own',
        KERNELS,
    ),
    Fault(
        "packed rows a power of two apart",
        "kernels/layout.py",
        "stride += _LINE if stride % _PERIOD == 0 else 0",
        "stride += 0",
        KERNELS,
    ),
    # The native kernel's source: built anew for each.
    Fault(
        "forget gate without its offset",
        "kernels/lstm.cpp",
        "const float forget = gate == 2 ? 1.f : 0.f;",
        "const float forget = gate == 3 ? 1.f : 0.f;",
        KERNELS,
    ),
    Fault(
        "derivative of the candidate with the wrong sign",
        "kernels/lstm.cpp",
        "z[H + u] = d * i * (1.f - j * j);",
        "z[H + u] = d * i * (1.f + j * j);",
        KERNELS,
    ),
    Fault(
        "gradient of the hidden state from the wrong rows",
        "kernels/lstm.cpp",
        "dh1[k] = dx1[IN + k];",
        "dh1[k] = dx1[k];",
        KERNELS,
    ),
    Fault(
        "clamp that swallows NaN",
        "kernels/lstm.cpp",
        "_mm256_max_ps(all(low), x)",
        "_mm256_max_ps(x, all(low))",
        KERNELS,
    ),
    Fault(
        "logarithm of zero",
        "kernels/lstm.cpp",
        "log(magnitude + 1.1920929e-07f)",
        "log(magnitude + 1.1920929e-17f)",
        KERNELS,
    ),
    Fault(
        "sums of a tile counted again",
        "kernels/lstm.cpp",
        "total[w] += sums[w], sums[w] = 0;",
        "total[w] += sums[w];",
        KERNELS,
    ),
    Fault(
        "derivative of the output's tanh forgotten",
        "kernels/lstm.cpp",
        "if (job.bounded) d *= 1.f - u * u;",
        "if (job.bounded && false) d *= 1.f - u * u;",
        KERNELS,
    ),
    Fault(
        "share of the second thread lost",
        "kernels/lstm.cpp",
        "for (int part = 0; part < threads; part++) all_threads",
        "for (int part = 0; part < 1; part++) all_threads",
        KERNELS,
    ),
    # The drop-in.
    Fault(
        "weight decay coupled to the gradient",
        "optimizers/torch_optim.py",
        "= sign * grad.to(dtype)[None]",
        '= (sign * grad + move.group["weight_decay"] * move.p).to(dtype)[None]',
        STEPPING,
    ),
    Fault(
        "weight decay not scaled by lr",
        "optimizers/torch_optim.py",
        "own.mul_(1 - lr * weight_decay)",
        "own.mul_(1 - weight_decay)",
        STEPPING,
    ),
    Fault(
        "learning rate of a group ignored",
        "optimizers/torch_optim.py",
        "own.add_(lr * delta",
        'own.add_(self.defaults["lr"] * delta',
        STEPPING,
    ),
    Fault(
        "closure run without gradients",
        "optimizers/torch_optim.py",
        "with torch.enable_grad():",
        "with torch.no_grad():",
        STEPPING,
    ),
    Fault(
        "a missing gradient taken for zero",
        "optimizers/torch_optim.py",
        "            if p.grad is None or not p.requires_grad:\n",
        "            if p.grad is None:\n"
        "                p.grad = torch.zeros_like(p)\n"
        "            if not p.requires_grad:\n",
        STEPPING,
    ),
    Fault(
        "a step without a gradient is counted",
        "optimizers/torch_optim.py",
        "            if p.grad is None or not p.requires_grad:\n",
        "            if p.grad is None or not p.requires_grad:\n"
        "                if p in self.state:\n"
        "                    self.state[p][STEPS] += 1\n",
        STEPPING,
    ),
    Fault(
        "a shared counter advances with each piece",
        "kernels/reference.py",
        "shared[name] = leaf  #",
        "state[name].copy_(leaf)  #",
        STEPPING,
    ),
    Fault(
        "a delay line is overwritten before it is read",
        "kernels/reference.py",
        "v.clone() if v.untyped_storage().data_ptr() in storages else v for k, v",
        "v for k, v",
        STEPPING,
    ),
    Fault(
        "maximize shows the gradient as it is",
        "optimizers/torch_optim.py",
        "= sign * grad.to(dtype)[None]",
        "= grad.to(dtype)[None]",
        REFUSALS,
    ),
    Fault(
        "maximize shows the loss as it is",
        "optimizers/torch_optim.py",
        "sign * loss.to(p.device, dtype)[None]",
        "loss.to(p.device, dtype)[None]",
        REFUSALS,
    ),
    Fault(
        "some parameters stepped before a gradient is refused",
        "optimizers/torch_optim.py",
        "        refusals.check_finite([(move.name, move.grad) for move in moves])\n"
        "        self._warn_past_horizon(moves)\n"
        "        problems: dict[Hashable, list[_Move]] = {}\n"
        "        for move in moves:\n",
        "        self._warn_past_horizon(moves)\n"
        "        problems: dict[Hashable, list[_Move]] = {}\n"
        "        for move in moves:\n"
        "            refusals.check_finite([(move.name, move.grad)])\n",
        PRECISION,
    ),
    Fault(
        "loaded state cast to the parameter's type",
        "optimizers/torch_optim.py",
        "shards.part(value).copy_(shards.part(shards.aligned(leaves[leaf], value)))",
        "restored[p][leaf] = leaves[leaf].to(p.dtype if value.is_floating_point() else value.dtype, copy=True)",
        STATE,
    ),
    Fault(
        "loaded state shared with the argument",
        "optimizers/torch_optim.py",
        "shards.part(value).copy_(shards.part(shards.aligned(leaves[leaf], value)))",
        "restored[p][leaf] = leaves[leaf]",
        STATE,
    ),
    Fault(
        "a state of other meta-parameters accepted",
        "optimizers/torch_optim.py",
        '"meta_parameters": digest(rule.state_dict())}',
        '"meta_parameters": digest({})}',
        STATE,
    ),
    Fault(
        "warning about the horizon comes again after a copy",
        "optimizers/torch_optim.py",
        '"rule": self.rule, "_warned": self._warned}',
        '"rule": self.rule, "_warned": False}',
        REFUSALS,
    ),
    Fault(
        "a coupling rule sees each parameter alone",
        "optimizers/torch_optim.py",
        "if self.rule.couples_tensors else place",
        "if self.rule is None else place",
        HIERARCHICAL,
    ),
    Fault(
        "what a task shares is left behind where there is no gradient",
        "optimizers/torch_optim.py",
        "value.copy_(state[leaf])",
        "value.copy_(value)",
        HIERARCHICAL,
    ),
    Fault(
        "a late parameter brings its own copy of what a task shares",
        "optimizers/torch_optim.py",
        "_shared(others[0] if others else {})",
        "_shared({})",
        HIERARCHICAL,
    ),
    Fault(
        "equal random numbers for every parameter",
        "optimizers/torch_optim.py",
        "tasks=(place,)",
        "tasks=(0,)",
        HIERARCHICAL,
    ),
    Fault(
        "a distributed checkpoint before the first step takes a step",
        "optimizers/torch_optim.py",
        "loss is None and self._asks_for_states(moves)",
        "loss is None and self._warned and self._asks_for_states(moves)",
        CHANGES,
    ),
    Fault(
        "lr 0 stands in for the loss",
        "optimizers/torch_optim.py",
        "return not shards.anywhere(any(bool(shards.part(grad).any()) for grad in grads), grads)",
        "return not shards.anywhere(False, grads)",
        CHANGES,
    ),
    Fault(
        "autocast rounds a rule's networks",
        "optimizers/torch_optim.py",
        "torch.autocast(kind, enabled=False))",
        "torch.autocast(kind, enabled=torch.is_autocast_enabled(kind)))",
        PRECISION,
    ),
    Fault(
        "a coordinate's step is not counted where a tensor has none",
        "optimizers/base.py",
        "for start in range(0, max(coordinates, 1), width):",
        "for start in range(0, coordinates, width):",
        SHARDS,
    ),
    Fault(
        "a flat piece is taken for a parameter",
        "optimizers/refusals.py",
        'getattr(p, "_fsdp_flattened", False)',
        'getattr(p, "_fsdp_unflattened", False)',
        SHARDS,
    ),
    Fault(
        "each process is shown a loss of its own",
        "optimizers/refusals.py",
        "shards.mean_over_processes(value.reshape(()).to(device))",
        "value.reshape(()).to(device)",
        TWO_PROCESSES,
    ),
    Fault(
        "a rule that couples coordinates sees a part of a tensor",
        "optimizers/torch_optim.py",
        "return shards.whole(tensor) if self.rule.couples_coordinates else shards.part(tensor)",
        "return shards.part(tensor)",
        TWO_PROCESSES,
    ),
    Fault(
        "the dual variable pulls the wrong way",
        "methods/guided_policy/lqg.py",
        "m[:, states:] -= dual",
        "m[:, states:] += dual",
        LOCAL_CONTROL,
    ),
    Fault(
        "noise without the penalty's temperature",
        "methods/guided_policy/lqg.py",
        "temperature = temperature + penalty",
        "temperature = temperature + 0 * penalty",
        LOCAL_CONTROL,
    ),
    Fault(
        "the last state's cost is forgotten",
        "methods/guided_policy/lqg.py",
        "V, v = cost.C[:, steps], cost.d[:, steps, :, None]",
        "V, v = 0 * cost.C[:, steps], 0 * cost.d[:, steps, :, None]",
        LOCAL_CONTROL,
    ),
    Fault(
        "gains are not jittered",
        "methods/guided_policy/sampling.py",
        "(jitter * z - jitter**2 / 2).exp()",
        "(0 * z).exp()",
        GUIDED,
    ),
    Fault(
        "noise is the same at every step",
        "methods/guided_policy/sampling.py",
        "self.rng.at(step=step).normal",
        "self.rng.at(step=0).normal",
        GUIDED,
    ),
    Fault(
        "targets of the policy move with the dual variable",
        "methods/guided_policy/alternation.py",
        "-G / penalty * duals.dual[..., 0]",
        "G / penalty * duals.dual[..., 0]",
        ALTERNATION,
    ),
    Fault(
        "the dual step forgets the controller's noise",
        "methods/guided_policy/alternation.py",
        "self.alpha * duals.penalty / G * excess",
        "self.alpha * duals.penalty * excess",
        ALTERNATION,
    ),
    Fault(
        "a bank of features is not shifted",
        "methods/guided_policy/features.py",
        'remembered[f"{kind}/{phase}"][..., :-1]',
        'remembered[f"{kind}/{phase}"][..., 1:]',
        GUIDED_FEATURES,
    ),
    Fault(
        "the last two differences of x are mixed up",
        "methods/guided_policy/features.py",
        'earlier["q"] if step >= 2 * STRIDE else q',
        'earlier["q"] if step >= STRIDE else q',
        GUIDED_FEATURES,
    ),
    Fault(
        "a worse controller is kept",
        "methods/guided_policy/search.py",
        "accepted = found[best] < old_value",
        "accepted = found[best] < math.inf",
        GUIDED,
    ),
    Fault(
        "only all new controllers together are tried",
        "methods/guided_policy/search.py",
        "best = min(found, key=lambda groups: found[groups])",
        "best = tuple(everyone)",
        GUIDED,
    ),
    Fault(
        "gains that are worse are kept",
        "methods/guided_policy/gains.py",
        "if found < value:",
        "if found > value:",
        GUIDED_GAINS,
    ),
    Fault(
        "gains change in all groups",
        "methods/guided_policy/gains.py",
        "K[group] *= factors",
        "K[:] *= factors",
        GUIDED_GAINS,
    ),
    Fault(
        "without a solution controllers are compared with their value on other tasks",
        "methods/guided_policy/search.py",
        'return replace(standing, value=torch.tensor(value, dtype=torch.float64)), {"value": value}',
        'return standing, {"value": value}',
        GUIDED,
    ),
    Fault(
        "the policy begins anew in every part of the samples",
        "methods/guided_policy/sampling.py",
        "actions, state = replay(",
        "actions, _ = replay(",
        GUIDED,
    ),
    Fault(
        "features of predicted step descent have no limit",
        "optimizers/predicted_step.py",
        ".clamp(-self.limit, self.limit)",
        "",
        ("tests/optimizers/test_predicted_step.py",),
    ),
    Fault(
        "what an iteration hands on is not rounded to the run's type",
        "methods/guided_policy/search.py",
        "leaf.to(dtype) for n, leaf in flat.items()",
        "leaf for n, leaf in flat.items()",
        GUIDED,
    ),
    Fault(
        "a drop-in takes every tensor for the last bias",
        "optimizers/torch_optim.py",
        'state["group"].fill_(self.rule.tensor_groups(shapes)[str(place)])',
        'state["group"].fill_(3)',
        ("tests/optimizers/test_predicted_step.py",),
    ),
    Fault(
        "a window of predicted step descent has no forget offset",
        "optimizers/predicted_step.py",
        "forget[self.hidden : 2 * self.hidden] = 1.0",
        "forget[self.hidden : 2 * self.hidden] = 0.0",
        ("tests/optimizers/test_predicted_step.py",),
    ),
    Fault(
        "a window of predicted step descent starts without memory",
        "optimizers/predicted_step.py",
        'number = state["step"] + torch.arange(',
        'number = 0 * state["step"] + torch.arange(',
        ("tests/optimizers/test_predicted_step.py", "tests/methods/test_guided_features.py"),
    ),
]


class StaleFaultError(Exception):
    """The text that a fault replaces is not there exactly once: the source has moved on, and the table must follow."""


def faulty(fault: Fault, text: str) -> str:
    """The text of the file with the fault in it."""
    count = text.count(fault.before)
    if count != 1:
        raise StaleFaultError(f"{fault.name!r}: {fault.before!r} occurs {count} times in {fault.file}, not once")
    return text.replace(fault.before, fault.after)


@contextmanager
def planted(fault: Fault, copy: Path) -> Iterator[None]:
    """The copy of the library with the fault in it, and without it again."""
    path = copy / "src" / "l2o" / fault.file
    text = path.read_text(encoding="utf-8")
    path.write_text(faulty(fault, text), encoding="utf-8")
    if path.suffix == ".cpp":
        build(copy)
    try:
        yield
    finally:
        path.write_text(text, encoding="utf-8")
        if path.suffix == ".cpp":
            build(copy)


def build(copy: Path) -> None:
    """Builds the native kernel of the copy, beside its source."""
    cmake = Path(sys.executable).parent / "cmake"
    place = f"-DCMAKE_LIBRARY_OUTPUT_DIRECTORY={copy / 'src' / 'l2o' / 'kernels'}"
    configure = [str(cmake), "-S", str(copy / "native"), "-B", str(copy / "build"), "-DCMAKE_BUILD_TYPE=Release", place]
    for command in (configure, [str(cmake), "--build", str(copy / "build")]):
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def copy_tree(copy: Path) -> None:
    """Copies what the tests need, and sees that Python imports the copy rather than what is installed."""
    for folder in ("src", "tests", "native"):
        shutil.copytree(
            ROOT / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__", "CMakeCache.txt", "CMakeFiles")
        )
    shutil.copy(ROOT / "pyproject.toml", copy)
    asked = [sys.executable, "-c", "import l2o; print(l2o.__file__)"]
    found = subprocess.run(asked, cwd=copy, env=environment(copy), capture_output=True, text=True, check=True).stdout
    if Path(found.strip()).resolve() != (copy / "src" / "l2o" / "__init__.py").resolve():
        raise SystemExit(f"Python imports l2o from {found.strip()}, not from the copy in {copy}")


def environment(copy: Path) -> dict[str, str]:
    """The copy first. No bytecode: a file that changes twice in a second would be taken for its old self."""
    return {**os.environ, "PYTHONPATH": str(copy / "src"), "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}


def run_tests(copy: Path, tests: Sequence[str], timeout: float | None) -> tuple[str, str]:
    """Runs tests up to the first failure.

    Returns:
        "passed", "failed", "broken" (the tests could not be collected) or "timeout", and the test that failed.
    """
    command = [sys.executable, "-m", "pytest", "-x", "-q", "--tb=no", "-p", "no:cacheprovider", *tests]
    try:
        done = subprocess.run(
            command, cwd=copy, env=environment(copy), capture_output=True, text=True, check=False, timeout=timeout
        )
    except subprocess.TimeoutExpired:
        return "timeout", ""
    lines = [line for line in done.stdout.splitlines() if line.startswith(("FAILED ", "ERROR "))]
    first = lines[0].split(" - ")[0].split(" ", 1)[1] if lines else ""
    return {0: "passed", 1: "failed"}.get(done.returncode, "broken"), first


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", metavar="NAME", help="plant this fault alone; may be repeated")
    parser.add_argument("--list", action="store_true", help="print the names of the faults")
    options = parser.parse_args()
    if options.list:
        print("\n".join(f"{fault.file:28} {fault.name}" for fault in FAULTS))
        return 0
    known = {fault.name: fault for fault in FAULTS}
    unknown = [name for name in options.only or [] if name not in known]
    if unknown:
        parser.error(f"no fault {unknown[0]!r}; --list prints the names")
    chosen = [known[name] for name in options.only] if options.only else FAULTS
    with tempfile.TemporaryDirectory(prefix="l2o-faults-") as folder:
        copy = Path(folder)
        copy_tree(copy)
        for fault in chosen:
            faulty(fault, (copy / "src" / "l2o" / fault.file).read_text(encoding="utf-8"))
        return plant_all(chosen, copy)


def plant_all(faults: Sequence[Fault], copy: Path) -> int:
    """Plants each fault, prints what became of it, and gives the exit status."""
    tests = sorted({test for fault in faults for test in fault.tests})
    begin = time.perf_counter()
    outcome, first = run_tests(copy, tests, None)
    timeout = max(PATIENCE, 3 * (time.perf_counter() - begin))
    if outcome != "passed":
        raise SystemExit(f"without any fault the tests ended as {outcome!r} ({first}): nothing can be learnt from them")
    caught = 0
    for fault in faults:
        begin = time.perf_counter()
        with planted(fault, copy):
            outcome, first = run_tests(copy, fault.tests, timeout)
        verdict = {"failed": "caught", "passed": "SURVIVED"}.get(outcome, outcome.upper())
        caught += verdict == "caught"
        seconds = time.perf_counter() - begin
        print(f"{verdict:9} {seconds:5.1f} s  {fault.file:26} {fault.name:58} {first}", flush=True)
    print(f"{caught} of {len(faults)} faults caught; needed: {NEEDED:.0%}")
    return 0 if caught >= NEEDED * len(faults) else 1


if __name__ == "__main__":
    sys.exit(main())
