"""Any `torch.nn.Module` on any data, as a task family."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from l2o import trees
from l2o.errors import ArgumentError, UnsupportedError
from l2o.rng import Stream
from l2o.tasks.base import TaskFamily
from l2o.tasks.data import Dataset
from l2o.tasks.parts import mean_over_parts
from l2o.trees import Tree

Examples = tuple[Tensor, Tensor] | Dataset
"""Inputs `[examples, ...]` and targets `[examples, ...]`, or a labelled image set. uint8 inputs are read as x / 255."""


class ModuleTask(TaskFamily):
    """loss_fn(module(inputs), targets) on minibatches drawn with replacement.

    Tasks of the family differ in their start, which is what `model_factory` builds after `torch.manual_seed` with the
    task's own seed, and in their minibatches. The module runs in the mode (train or eval) in which the factory leaves
    it. What is not trained (buffers, and parameters with `requires_grad=False`) is fixed: all tasks share that of one
    module, built from seed 0. A parameter used in several places is one parameter, under its first name.

    Args:
        model_factory: builds a new module on the CPU, its randomness all from torch.
        loss_fn: from the module's output and the targets of a minibatch to a scalar, the mean over its examples.
        data: the examples that the module is trained on.
        test: the examples for `metrics`: `test_accuracy` where the targets are class labels `[examples]` of an output
            `[examples, classes]`, else `test_loss`.
        batch: examples in a minibatch, at least 1.
        name: the family's name in reports; `module-<class>` if not given.

    Raises:
        ArgumentError: if the parts do not fit each other: they are run once, on two examples.
        UnsupportedError: if the module keeps state, or cannot be batched over tasks by `torch.func.vmap`.

    Example:
        >>> inputs, targets = torch.randn(50, 3), torch.randn(50, 1)
        >>> family = ModuleTask(lambda: nn.Linear(3, 1), nn.functional.mse_loss, (inputs, targets), batch=10)
        >>> {name: tuple(leaf.shape) for name, leaf in family.init({}, Stream(0, tasks=range(2))).items()}
        {'weight': (2, 1, 3), 'bias': (2, 1)}
    """

    def __init__(
        self,
        model_factory: Callable[[], nn.Module],
        loss_fn: Callable[[Any, Tensor], Tensor],
        data: Examples,
        *,
        test: Examples | None = None,
        batch: int = 128,
        name: str | None = None,
    ) -> None:
        if batch < 1:
            raise ArgumentError(f"batch is {batch}; a minibatch needs at least 1 example")
        self.model_factory, self.loss_fn, self.batch = model_factory, loss_fn, batch
        self._train = _pair("data", data)
        self._test = None if test is None else _pair("test", test)
        self._notes = [part.note for part in (data, test) if isinstance(part, Dataset) and part.note]
        self._model = _checked_model(model_factory)
        self.name = f"module-{type(self._model).__name__}" if name is None else name
        frozen = {key: leaf.detach() for key, leaf in self._model.named_parameters() if not leaf.requires_grad}
        self._fixed = {**frozen, **dict(self._model.named_buffers())}
        with torch.random.fork_rng(devices=[]), torch.enable_grad():
            output = self._check_loss()
            self._check_batching()
        self._labelled = self._test is not None and _are_labels(self._test[1], output)

    def init(self, instance: Tree, rng: Stream) -> Tree:
        seeds = [int(generator.integers(2**63 - 1)) for generator in rng.generators()]
        starts = [_trained(_build(self.model_factory, seed)) for seed in seeds]
        return {name: torch.stack([start[name] for start in starts]) for name in starts[0]}

    def batch_indices(self, instance: Tree, rng: Stream) -> Tree:
        return {"examples": rng.integers(len(self._train[0]), (self.batch,))}

    def gather(self, indices: Tree) -> Tree:
        return _take(self._train, indices["examples"])  # [tasks, batch, ...]

    def loss(self, params: Tree, instance: Tree, batch: Tree) -> Tensor:
        return self.loss_fn(self.output(params, batch["inputs"]), batch["targets"])

    def output(self, params: Tree, inputs: Tensor) -> Any:
        """What the module gives for ONE task and inputs `[batch, ...]`."""
        leaf = next(iter(params.values()))
        fixed = trees.to(self._fixed, leaf.device, leaf.dtype)
        return torch.func.functional_call(self._model, {**fixed, **params}, (inputs,))

    def metrics(self, params: Tree, instance: Tree) -> Tree:
        if self._test is None:
            return {}
        leaf, examples = next(iter(params.values())), self._test
        measure = torch.func.vmap(self._accuracy if self._labelled else self._test_loss, in_dims=(0, None))

        def total(part: Tensor) -> Tensor:
            return len(part) * measure(params, trees.to(_take(examples, part), leaf.device, leaf.dtype))

        return {"test_accuracy" if self._labelled else "test_loss": mean_over_parts(total, len(examples[0]))}

    def data_notes(self) -> list[str]:
        return list(self._notes)

    def _accuracy(self, params: Tree, part: Tree) -> Tensor:
        return (self.output(params, part["inputs"]).argmax(-1) == part["targets"]).float().mean()

    def _test_loss(self, params: Tree, part: Tree) -> Tensor:
        return self.loss(params, {}, part)

    def _two_examples(self, tasks: int) -> tuple[Tree, Tree]:
        """Parameters and a minibatch of two examples for each of some equal tasks: leaves `[tasks, ...]`."""
        start = _trained(self._model)
        params = {name: torch.stack([leaf] * tasks) for name, leaf in start.items()}
        batch = self.gather({"examples": torch.arange(2).repeat(tasks, 1) % len(self._train[0])})
        dtype = next(iter(start.values())).dtype
        return trees.to(params, "cpu", dtype), trees.to(batch, "cpu", dtype)

    def _check_loss(self) -> Any:
        """Runs one task without vmap; the module's own errors come out as they are. Returns the module's output."""
        before = trees.map_leaves(Tensor.clone, self._fixed)
        params, batch = ({name: leaf[0] for name, leaf in tree.items()} for tree in self._two_examples(1))
        params = {name: leaf.requires_grad_() for name, leaf in params.items()}
        output = self.output(params, batch["inputs"])
        loss = self.loss_fn(output, batch["targets"])
        if not isinstance(loss, Tensor) or loss.shape != () or not loss.is_floating_point():
            found = f"{loss.dtype} {list(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
            raise ArgumentError(f"loss_fn gave {found}; it must give a floating scalar, the mean over the minibatch")
        grads = [None] * len(params)
        if loss.requires_grad:
            grads = torch.autograd.grad(loss, list(params.values()), allow_unused=True)
        unused = [name for name, grad in zip(params, grads, strict=True) if grad is None]
        if unused:
            raise ArgumentError(
                f"the loss does not depend on {', '.join(unused)}; remove it from the module, "
                "or set requires_grad=False, which keeps it as it is"
            )
        for name, leaf in before.items():
            if not torch.equal(leaf, self._fixed[name]):
                owner, _, buffer = name.rpartition(".")
                raise UnsupportedError(
                    f"{_describe(owner, self._model.get_submodule(owner))} changes its buffer {buffer!r} when it runs, "
                    "but an optimizee keeps no state beside its parameters; "
                    "give normalisation layers track_running_stats=False, and leave out others that keep statistics"
                )
        return output

    def _check_batching(self) -> None:
        """Runs two tasks under vmap."""
        params, batch = self._two_examples(2)
        with _running(self._model) as modules:
            try:
                self.value_and_grad(params, {}, batch)
            except RuntimeError as error:
                culprit = modules[-1] if modules else "the loss or its gradient"
                raise UnsupportedError(
                    f"{culprit} cannot be batched over tasks by torch.func.vmap ({error}); leave out what is random, "
                    "such as dropout in training mode (p=0 turns it off), and layers without a batching rule"
                ) from error


def _build(model_factory: Callable[[], nn.Module], seed: int) -> nn.Module:
    """What `torch.manual_seed(seed)` and a call give, with the global generator left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would also seed every accelerator
        return model_factory()


def _trained(model: nn.Module) -> Tree:
    return {name: leaf.detach() for name, leaf in model.named_parameters() if leaf.requires_grad}


def _checked_model(model_factory: Callable[[], nn.Module]) -> nn.Module:
    if isinstance(model_factory, nn.Module):
        raise ArgumentError(f"model_factory is a {type(model_factory).__name__}; pass a function that builds a new one")
    model, again = _build(model_factory, 0), _build(model_factory, 0)
    if not isinstance(model, nn.Module):
        raise ArgumentError(f"model_factory gave a {type(model).__name__}; it must give a torch.nn.Module")
    if again is model:
        raise ArgumentError("model_factory gave the same module twice; build a new one at each call")
    for name, leaf in model.named_parameters():
        if nn.parameter.is_lazy(leaf):
            raise UnsupportedError(f"parameter {name} has no shape yet; replace the lazy layer by one of known sizes")
        if leaf.device.type != "cpu":
            raise ArgumentError(f"parameter {name} is on {leaf.device}; build on the CPU, a process moves its tasks")
        if not leaf.is_floating_point():
            raise UnsupportedError(f"parameter {name} is {leaf.dtype}; only real floating parameters are optimized")
    start, start_again = _trained(model), _trained(again)
    if not start:
        raise ArgumentError(f"{type(model).__name__} has no parameters to optimize; it needs at least one")
    for name, leaf in start.items():
        if name not in start_again or not torch.equal(leaf, start_again[name]):
            raise ArgumentError(
                f"parameter {name} differs between two modules built from one torch seed; "
                "let model_factory draw from torch's random numbers alone"
            )
    return model


def _pair(role: str, data: Examples) -> tuple[Tensor, Tensor]:
    parts = (data.inputs, data.labels) if isinstance(data, Dataset) else data
    if not isinstance(parts, tuple | list) or len(parts) != 2 or not all(isinstance(part, Tensor) for part in parts):
        raise ArgumentError(f"{role} is a {type(data).__name__}; pass a pair of tensors (inputs, targets) or a Dataset")
    inputs, targets = parts
    if inputs.ndim < 1 or inputs.shape[:1] != targets.shape[:1] or len(inputs) == 0:
        shapes = f"{list(inputs.shape)} and {list(targets.shape)}"
        raise ArgumentError(
            f"{role} has inputs and targets of shapes {shapes}; pass [examples, ...] twice, at least one example"
        )
    return inputs, targets


def _take(data: tuple[Tensor, Tensor], examples: Tensor) -> Tree:
    inputs, targets = (part[examples] for part in data)
    return {"inputs": inputs.float() / 255 if inputs.dtype == torch.uint8 else inputs, "targets": targets}


def _are_labels(targets: Tensor, output: Any) -> bool:
    """Whether integer targets `[examples]` name columns of the output `[examples, classes]`."""
    integers = targets.ndim == 1 and not targets.is_floating_point() and targets.dtype != torch.bool
    if not integers or not isinstance(output, Tensor) or output.ndim != 2:
        return False
    return int(targets.min()) >= 0 and int(targets.max()) < output.shape[1]


def _describe(name: str, module: nn.Module) -> str:
    return f"{type(module).__name__} '{name}'" if name else type(module).__name__


@contextmanager
def _running(model: nn.Module) -> Iterator[list[str]]:
    """The modules whose forward has begun and not ended, outermost first: after an error, the last one raised it."""
    names: list[str] = []

    def leave(*_: object) -> None:
        names.pop()

    handles = []
    for name, module in model.named_modules():
        described = _describe(name, module)
        handles.append(module.register_forward_pre_hook(lambda *_, described=described: names.append(described)))
        handles.append(module.register_forward_hook(leave))
    try:
        yield names
    finally:
        for handle in handles:
            handle.remove()
