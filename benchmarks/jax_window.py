"""The window of L2O-DM in plain JAX: jit and scan over the inner steps, with or without checkpoint of each step.

The same cell, optimizees, start, minibatches and first-order meta-loss as in the library, as one would write it: the
optimizee is differentiated inside the meta-loss, its gradient stopped before the optimizer sees it. The minibatches'
indices are drawn beforehand, in its favour.
"""

import math
from collections.abc import Callable
from typing import Any

import jax  # pyright: ignore[reportMissingImports]
import jax.numpy as jnp  # pyright: ignore[reportMissingImports]
import numpy as np
import torch
from jax import lax  # pyright: ignore[reportMissingImports]
from jax.flatten_util import ravel_pytree  # pyright: ignore[reportMissingImports]

from benchmarks.candidates import META_LEARNING_RATE
from benchmarks.tasks import EXAMPLES, LEARNED, Size, Workload
from benchmarks.timing import Call
from l2o.agent import meta_parameters
from l2o.optimizers.dm import L2ODM
from l2o.processes.optimizee import Optimizee
from l2o.tasks.mlp import MLPClassifier
from l2o.tasks.module import ModuleTask
from l2o.tasks.quadratic import Quadratics

Arrays = dict[str, Any]
Loss = Callable[[Arrays, Any, Arrays], Any]
"""From the parameters, the minibatch's indices and the data to the sum of the tasks' losses."""


def window(checkpoint: bool, workload: Workload, size: Size, steps: int) -> Call:
    """A window with its meta-update, compiled as one function."""
    optimizer = LEARNED["L2O-DM"]()
    assert isinstance(optimizer, L2ODM)
    process = workload.start(optimizer, size).process
    loss, params, indices, data = optimizee(process, steps)
    theta = {name: array(leaf) for name, leaf in meta_parameters(optimizer).items()}
    moments = {"m": zeros_like(theta), "v": zeros_like(theta), "steps": jnp.zeros(())}
    meta_loss = first_order(loss, optimizer, workload.tasks, steps, checkpoint)

    @jax.jit
    def meta_step(theta: Arrays, moments: Arrays, params: Arrays, indices: Any, data: Arrays) -> Any:
        gradient = jax.grad(meta_loss)(theta, params, indices, data)
        return *adam(theta, moments, gradient), gradient

    def run() -> Arrays:
        nonlocal theta, moments
        theta, moments, gradient = jax.block_until_ready(meta_step(theta, moments, params, indices, data))
        return gradient

    return Call(run, f"jax {jax.__version__}")


def first_order(loss: Loss, optimizer: L2ODM, tasks: int, steps: int, checkpoint: bool) -> Callable[..., Any]:
    """The meta-loss sum_j f_j(theta_j), mean over tasks, the optimizer's inputs held constant."""

    def meta_loss(theta: Arrays, params: Arrays, indices: Any, data: Arrays) -> Any:
        start, unravel = ravel_pytree(params)
        state = [jnp.zeros((start.size, optimizer.hidden)) for _ in range(4)]

        def inner_step(carry: Any, batch: Any) -> tuple[Any, Any]:
            flat, state = carry
            value, grad = jax.value_and_grad(lambda flat: loss(unravel(flat), batch, data))(flat)
            update, state = dm(theta, optimizer, lax.stop_gradient(grad), state)
            return (flat + update, state), value

        body = jax.checkpoint(inner_step) if checkpoint else inner_step
        before, last = (None, None) if indices is None else (indices[:-1], indices[-1])
        (end, _), values = lax.scan(body, (start, state), before, length=steps)
        return (values.sum() + loss(unravel(end), last, data)) / tasks

    return meta_loss


def dm(theta: Arrays, optimizer: L2ODM, grad: Any, state: list[Any]) -> tuple[Any, list[Any]]:
    """One step of L2O-DM: grad `[coordinates]`, state four times `[coordinates, hidden]`."""
    h1, c1, h2, c2 = state
    magnitude = jnp.maximum(jnp.log(jnp.abs(grad) + jnp.finfo(jnp.float32).eps) / optimizer.k, -1.0)
    sign = jnp.clip(grad * math.exp(optimizer.k), -1.0, 1.0)
    h1, c1 = lstm_cell(theta, "cell1", jnp.stack([magnitude, sign], axis=1), h1, c1)
    h2, c2 = lstm_cell(theta, "cell2", h1, h2, c2)
    update = optimizer.scale * (h2 @ theta["output.weight"] + theta["output.bias"])[:, 0]
    return update, [h1, c1, h2, c2]


def lstm_cell(theta: Arrays, name: str, x: Any, h: Any, c: Any) -> tuple[Any, Any]:
    """The cell of `l2o.nn.LSTMCell`."""
    gates = jnp.concatenate([x, h], axis=1) @ theta[f"{name}.weight"] + theta[f"{name}.bias"]
    i, j, f, o = jnp.split(gates, 4, axis=1)
    c = jax.nn.sigmoid(f + 1.0) * c + jax.nn.sigmoid(i) * jnp.tanh(j)
    return jax.nn.sigmoid(o) * jnp.tanh(c), c


def adam(theta: Arrays, moments: Arrays, gradient: Arrays) -> tuple[Arrays, Arrays]:
    """One step of Adam with torch's constants."""
    steps = moments["steps"] + 1
    m = jax.tree.map(lambda old, g: 0.9 * old + 0.1 * g, moments["m"], gradient)
    v = jax.tree.map(lambda old, g: 0.999 * old + 0.001 * g * g, moments["v"], gradient)

    def moved(p: Any, m: Any, v: Any) -> Any:
        return p - META_LEARNING_RATE * (m / (1 - 0.9**steps)) / (jnp.sqrt(v / (1 - 0.999**steps)) + 1e-8)

    return jax.tree.map(moved, theta, m, v), {"m": m, "v": v, "steps": steps}


def optimizee(process: Optimizee, steps: int) -> tuple[Loss, Arrays, Any, Arrays]:
    """The loss of a process in JAX, its start, the indices of its minibatches `[steps + 1, batch]`, and its data."""
    family = process.family
    if isinstance(family, Quadratics):
        params = {name: array(leaf) for name, leaf in process.params.items()}
        return quadratics, params, None, {name: array(leaf) for name, leaf in process.instance.items()}
    params = {name: array(leaf[0]) for name, leaf in process.params.items()}  # one task: without the tasks axis
    rng = process.rng.child("batch")
    drawn = [family.batch_indices(process.instance, rng.at(step=step))["examples"][0] for step in range(steps + 1)]
    assert isinstance(family, MLPClassifier | ModuleTask)
    whole = family.gather({"examples": torch.arange(EXAMPLES)[None]})
    inputs, labels = (array(leaf[0]) for leaf in whole.values())
    loss = perceptron if isinstance(family, MLPClassifier) else convolutional
    return loss, params, array(torch.stack(drawn)), {"inputs": inputs, "labels": labels}


def quadratics(params: Arrays, batch: Any, data: Arrays) -> Any:
    """sum over tasks of ||W x - y||^2."""
    residual = jnp.einsum("tij,tj->ti", data["matrix"], params["x"]) - data["target"]
    return jnp.square(residual).sum()


def perceptron(params: Arrays, batch: Any, data: Arrays) -> Any:
    """MLP-orig."""
    hidden = jax.nn.sigmoid(data["inputs"][batch] @ params["layers.0.weight"].T + params["layers.0.bias"])
    return cross_entropy(hidden @ params["layers.1.weight"].T + params["layers.1.bias"], data["labels"][batch])


def convolutional(params: Arrays, batch: Any, data: Arrays) -> Any:
    """Two convolutions of stride 2 and a linear layer; channels last, which XLA prefers."""
    x = jnp.moveaxis(data["inputs"][batch], 1, -1)
    for name in ("0", "2"):
        kernel = jnp.transpose(params[f"{name}.weight"], (2, 3, 1, 0))
        x = lax.conv_general_dilated(x, kernel, (2, 2), ((1, 1), (1, 1)), dimension_numbers=("NHWC", "HWIO", "NHWC"))
        x = jax.nn.relu(x + params[f"{name}.bias"])
    features = jnp.moveaxis(x, -1, 1).reshape(len(x), -1)
    return cross_entropy(features @ params["5.weight"].T + params["5.bias"], data["labels"][batch])


def cross_entropy(logits: Any, labels: Any) -> Any:
    return -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], axis=1).mean()


def array(leaf: torch.Tensor) -> Any:
    return jnp.asarray(np.asarray(leaf.detach()))


def zeros_like(tree: Arrays) -> Arrays:
    return jax.tree.map(jnp.zeros_like, tree)
