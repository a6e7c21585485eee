"""Four tasks on handwritten digits that share a layer: what balancing losses is for."""

from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import one_hot, softplus

from l2o.errors import ArgumentError
from l2o.rng import Stream
from l2o.tasks.alternate import AlternateFamily, Choice, Goal, Pair
from l2o.tasks.data import load_dataset
from l2o.tasks.splits import PARTS, Purpose, parts_for
from l2o.trees import Tree

Grouping = Literal["shared", "task"]
"""Whether the shared layer is a group of its own, or a part of every task's group."""

HEADS = {"digit": 10, "parity": 1, "large": 1, "pixels": 64}
"""Outputs of each task's head: which digit, odd or even, 5 or more, and the image again. The first is the primary."""

_PIXELS = 64
_SHARED = ("shared.weight", "shared.bias")


class MultitaskDigits(AlternateFamily):
    """One layer that four tasks share, and a linear head for each; only one of the tasks matters in the end.

        h = relu(W x + b), x the pixels in [0, 1];  output of task k: V_k h + c_k
        digit: softmax cross-entropy;  parity and large (5 or more): logistic loss;  pixels: mean squared error

    The training set is small, so that what the other tasks teach the shared layer is of use. Tasks of the family differ
    in their start, weights from N(0, 2 / inputs) (He et al. 2015) and biases 0, and in their minibatches. A choice
    trains one task: its loss updates the shared layer and its head. Parameters are `shared.weight`, `shared.bias`,
    `<task>.weight` and `<task>.bias`. Metrics are `validation` and `test`, the cross-entropy of the primary task on all
    images of the part, and `validation_accuracy` and `test_accuracy`, the shares of digits that it names rightly.

    Args:
        purpose: "controller" trains and validates on the parts that schedules are trained with, "model" on those that
            models are trained with under a schedule that is done. The test part is the same.
        grouping: "shared" makes the shared layer a group of its own, so that with an optimizer for each group (see
            `Settings`) all tasks step it with ONE Adam. That is the default, since then a task's rate acts as its
            loss's weight, and a schedule differs from a balancing of the weighted sum by its choices alone. "task"
            puts it into each task's group, so that each has an Adam of its own over it, as in AutoLoss's code for
            translation: every task's updates then have the same size, whatever the scale of its loss or of others'.
        hidden: units of the shared layer.
        sizes: images of the first four parts; the others are the test part.
        labelled: training images whose digit is known; the primary task draws its minibatches from these alone. By
            default all: then the other tasks are told nothing that the digit does not say, and they hardly help.
        batch: images in a minibatch, drawn with replacement.
        data_seed: of the order in which images are dealt to the parts; 0 is that of the data set.

    Example:
        >>> [choice.name for choice in MultitaskDigits(labelled=50).choices]
        ['digit', 'parity', 'large', 'pixels']

    Source: the multi-task experiment of AutoLoss (Xu et al. 2019), in small, and on real data.
    """

    def __init__(
        self,
        *,
        purpose: Purpose = "controller",
        grouping: Grouping = "shared",
        hidden: int = 32,
        sizes: tuple[int, int, int, int] = (200, 200, 200, 200),
        labelled: int | None = None,
        batch: int = 64,
        data_seed: int = 0,
    ) -> None:
        splits = [load_dataset("digits", "train"), load_dataset("digits", "test")]
        images, labels = torch.cat([split.inputs for split in splits]), torch.cat([split.labels for split in splits])
        if grouping not in ("shared", "task"):
            raise ArgumentError(f"grouping is {grouping!r}; choose 'shared' or 'task'")
        if hidden < 1 or batch < 1 or min(sizes) < 1 or sum(sizes) >= len(labels):
            raise ArgumentError(
                f"hidden {hidden}, batch {batch} and sizes {sizes} must be at least 1, and sizes leave some of the "
                f"{len(labels):,} images to test on"
            )
        used = parts_for(purpose)
        most = sizes[PARTS.index(used["train"])]
        if labelled is not None and not 1 <= labelled <= most:
            raise ArgumentError(f"labelled is {labelled}; there are {most} training images, and 1 is needed")
        own = {task: (f"{task}.weight", f"{task}.bias") for task in HEADS}
        groups, choices = {
            "shared": (
                {"shared": _SHARED, **own},
                [Choice(task, ((task, "shared"), (task, task))) for task in HEADS],
            ),
            "task": (
                {task: (*_SHARED, *names) for task, names in own.items()},
                [Choice(task, ((task, task),)) for task in HEADS],
            ),
        }[grouping]
        super().__init__(losses=tuple(HEADS), groups=groups, choices=choices, goal=Goal("validation"))
        self.name = f"multitask-digits-{grouping}-{data_seed}-{most if labelled is None else labelled}-{purpose}"
        self.hidden, self.batch, self.labelled = hidden, batch, most if labelled is None else labelled
        if data_seed != 0:
            order = torch.from_numpy(np.argsort(np.random.PCG64(data_seed).random_raw(len(labels)), kind="stable"))
            images, labels = images[order], labels[order]
        lengths = [*sizes, len(labels) - sum(sizes)]
        dealt = zip((images.flatten(1).float() / 255).split(lengths), labels.split(lengths), strict=True)
        self.parts: dict[str, tuple[Tensor, Tensor]] = dict(zip(PARTS, dealt, strict=True))
        self._used = {role: self.parts[part] for role, part in used.items()}

    def init(self, instance: Tree, rng: Stream) -> Tree:
        shapes = {"shared": (self.hidden, _PIXELS)} | {task: (outputs, self.hidden) for task, outputs in HEADS.items()}
        params: Tree = {}
        for layer, shape in shapes.items():
            weight = (2 / shape[1]) ** 0.5 * rng.child(layer).normal(shape)
            params |= {f"{layer}.weight": weight, f"{layer}.bias": torch.zeros_like(weight[:, :, 0])}
        return params

    def batch_indices(self, instance: Tree, rng: Stream) -> Tree:
        examples = rng.integers(len(self._used["train"][1]), (self.batch,))
        if self.labelled == len(self._used["train"][1]):
            return {"examples": examples, "labelled": examples}
        return {"examples": examples, "labelled": rng.child("labelled").integers(self.labelled, (self.batch,))}

    def gather(self, indices: Tree) -> Tree:
        images, labels = self._used["train"]
        seen, known = indices["examples"], indices["labelled"]  # [tasks, batch]
        rest = {"inputs": images[seen], "labels": labels[seen]}
        own = rest if known is seen else {"inputs": images[known], "labels": labels[known]}
        return rest | {f"digit_{name}": leaf for name, leaf in own.items()}

    def loss_named(self, name: str, params: Tree, instance: Tree, batch: Tree) -> Tensor:
        batch = _seen_by(name, batch)
        outputs = _layer(name, params, torch.relu(_layer("shared", params, batch["inputs"])))
        return _value_and_slope(name, outputs, batch)[0].mean()

    def pair_value_and_grad(self, pair: Pair, params: Tree, instance: Tree, batch: Tree) -> tuple[Tensor, Tree]:
        """In closed form, and only for the layers of the group."""
        name, batch = pair[0], _seen_by(pair[0], batch)
        inputs = batch["inputs"]  # [tasks, batch, pixels]
        wanted = self.groups[pair[1]]
        if not {f"{name}.weight", "shared.weight"} & set(wanted):
            raise ArgumentError(f"the loss {name!r} does not reach the group {pair[1]!r}; name another pair")
        units = _layer("shared", params, inputs).relu_()  # [tasks, batch, hidden]
        values, slopes = _value_and_slope(name, _layer(name, params, units), batch)
        slopes = slopes / inputs.shape[1]  # [tasks, batch, outputs]
        grads: Tree = {}
        if "shared.weight" in wanted:
            back = (slopes @ params[f"{name}.weight"]).mul_(units.sign())  # [tasks, batch, hidden]
            grads |= {"shared.weight": back.mT @ inputs, "shared.bias": back.sum(1)}
        if f"{name}.weight" in wanted:
            grads |= {f"{name}.weight": slopes.mT @ units, f"{name}.bias": slopes.sum(1)}
        return values.mean(1), grads

    def metrics(self, params: Tree, instance: Tree) -> Tree:
        weight, found = params["shared.weight"], {}
        for role in ("validation", "test"):
            inputs, labels = (part.to(weight.device) for part in self._used[role])
            # All tasks see the same images: the shared layer is one product of matrices, half of the time.
            flat = torch.addmm(params["shared.bias"].reshape(-1, 1), weight.flatten(0, 1), inputs.to(weight).T)
            units = flat.relu_().unflatten(0, weight.shape[:2]).mT  # [tasks, images, hidden]
            logits = _layer("digit", params, units)  # [tasks, images, digits]
            chosen = logits.gather(2, labels.expand(len(weight), -1)[..., None])[..., 0]
            right = (logits.argmax(2) == labels).to(weight)
            found |= {role: (logits.logsumexp(2) - chosen).mean(1), f"{role}_accuracy": right.mean(1)}
        return found

    def data_notes(self) -> list[str]:
        dealt = ", ".join(f"{len(labels):,} for {part}" for part, (_, labels) in self.parts.items())
        return [f"digits: all of scikit-learn's images, shuffled with a fixed seed and dealt out: {dealt}"]


def _seen_by(name: str, batch: Tree) -> Tree:
    """The minibatch of a task: inputs `[..., batch, pixels]` and labels `[..., batch]`."""
    prefix = "digit_" if name == "digit" else ""
    return {leaf: batch[f"{prefix}{leaf}"] for leaf in ("inputs", "labels")}


def _layer(name: str, params: Tree, inputs: Tensor) -> Tensor:
    """`[..., batch, outputs]` of a linear layer, for one task or for all."""
    return inputs @ params[f"{name}.weight"].mT + params[f"{name}.bias"][..., None, :]


def _value_and_slope(name: str, outputs: Tensor, batch: Tree) -> tuple[Tensor, Tensor]:
    """A task's loss of each image, `[..., batch]`, and its derivative by the outputs, `[..., batch, outputs]`."""
    labels = batch["labels"]  # [..., batch]
    if name == "digit":
        logs, right = outputs.log_softmax(-1), one_hot(labels, HEADS["digit"])
        return -(logs * right).sum(-1), logs.exp() - right
    if name == "pixels":
        off = outputs - batch["inputs"]
        return off.square().mean(-1), 2 / _PIXELS * off
    yes = (labels % 2 == 1) if name == "parity" else (labels >= 5)
    logits, yes = outputs[..., 0], yes.to(outputs)
    return softplus(logits) - yes * logits, (logits.sigmoid() - yes)[..., None]
