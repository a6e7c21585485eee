"""SmallFC as PyLO publishes it: the `MetaMLP` of `small_fc_lopt`, `model.safetensors` of a repository of the Hub.

    network.input.weight [32, 39], network.linear_0.weight [32, 32], network.output.weight [2, 32], each with a bias

The features stand in the same order as here, those of time last. The weights are those of `torch.nn.Linear`, outputs
first: they are turned. The seven decays are not in the file but in PyLO's code, as what they are moved by on the scale
that `SmallFC` has too.

Source: Janson et al. 2025, Belilovsky-Lab/pylo; the weights btherien/mulo are of Therien et al. 2024.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch

from l2o.errors import ArgumentError, WeightsError
from l2o.foreign.arrays import read_arrays, taken
from l2o.optimizers.small_fc import SmallFC
from l2o.weights import asked_shapes

MULO_DECAYS = (0.15216392, 0.14245212, 0.06812963, 0.01079706, 0.18621896, -0.10864615, -0.06185547)
"""Of btherien/mulo, in PyLO's order: three momenta, the square, three factored squares."""

_LAYERS = {"layer1": "input", "layer2": "linear_0", "output": "output"}


def read_small_fc(
    path: Path, *, decays: Sequence[float] = MULO_DECAYS, scale: float = 0.01, exponent: float = 0.001
) -> SmallFC:
    """SmallFC from PyLO's weights.

    Args:
        path: the safetensors file.
        decays: what the seven decays are moved by: PyLO's `momentum_decays`, `rms_decays` and `adafactor_decays`.
        scale: PyLO's `step_mult`.
        exponent: PyLO's `exp_mult`.

    Raises:
        WeightsError: the file is none, or has other arrays.
        ArgumentError: there are not seven decays.
    """
    if len(decays) != 7:
        raise ArgumentError(f"decays has {len(decays)} numbers; pass 3 of the momenta, 1 of the square, 3 factored")
    arrays = read_arrays(path)
    if "network.input.weight" not in arrays or not len(arrays["network.input.weight"]):
        raise WeightsError(
            f"{path} has no array network.input.weight, but {', '.join(arrays) or 'none'}; is it of another format?"
        )
    make = partial(SmallFC, scale=scale, exponent=exponent, hidden=len(arrays["network.input.weight"]))
    own = {name: shape for name, shape in asked_shapes(make).items() if name.startswith("network.")}
    found = taken(arrays, {_theirs(name): shape[::-1] for name, shape in own.items()}, path)
    weights = {name: found[_theirs(name)].T if len(shape) == 2 else found[_theirs(name)] for name, shape in own.items()}
    momenta, square, factored = torch.tensor(decays).split((3, 1, 3))
    moved = {"momentum_decays": momenta, "square_decay": square, "factored_decays": factored}
    (rule := make()).load_state_dict({**weights, **moved})
    return rule


def _theirs(name: str) -> str:
    _, layer, leaf = name.split(".")
    return f"network.{_LAYERS[layer]}.{leaf}"
