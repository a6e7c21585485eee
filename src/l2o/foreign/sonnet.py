"""L2O-DM and RNNprop as the public codes of the papers save them: the variables of Sonnet 1 modules.

Those codes keep `{module: {variable: array}}`, for the modules `lstm_1`, `lstm_2`, `linear`, and `input_projection` of
RNNprop. Here the arrays have names that end so, as `lstm_1/w_gates`; scopes before them, and `:0` behind them, are as
TensorFlow has them, and make no difference.

    lstm_K/w_gates [inputs + hidden, 4 hidden], lstm_K/b_gates [4 hidden]     gates input, candidate, forget, output
    linear/w [hidden, 1], linear/b [1]                                        y = x w + b
    input_projection/w [2, hidden], input_projection/b [hidden]

`l2o.nn` has the same cell: the order of the gates, one bias, and 1 that is added to the forget gate when it runs and is
not in the arrays. So nothing is turned or reordered.

Source: the public codes of Andrychowicz et al. 2016 (google-deepmind/learning-to-learn) and Chen et al. 2020
(VITA-Group/L2O-Training-Techniques), which save pickles: their arrays are to be written anew, see docs/sharing.md.
"""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from l2o.errors import WeightsError
from l2o.foreign.arrays import read_arrays, taken
from l2o.optimizers.base import LearnedOptimizer
from l2o.optimizers.dm import L2ODM
from l2o.optimizers.rnnprop import RNNprop
from l2o.trees import Tree
from l2o.weights import asked_shapes

_CELLS = {
    "cell1.weight": "lstm_1/w_gates",
    "cell1.bias": "lstm_1/b_gates",
    "cell2.weight": "lstm_2/w_gates",
    "cell2.bias": "lstm_2/b_gates",
    "output.weight": "linear/w",
    "output.bias": "linear/b",
}
_PROJECTION = {"input.weight": "input_projection/w", "input.bias": "input_projection/b"}


def read_dm(path: Path, *, k: float = 5.0, scale: float | None = None) -> L2ODM:
    """L2O-DM from the arrays of `CoordinateWiseDeepLSTM` with two layers.

    An input of two features is the gradient's logarithm and sign; of one, the gradient itself.

    Args:
        path: an `.npz` or safetensors file.
        k: of the preprocessing, which is not in the arrays; 5 in both public codes, 10 in the paper.
        scale: on the output, not in the arrays either; by default as in the public codes, 0.01, and 1 for the gradient
            itself.

    Raises:
        WeightsError: the file is none, or has other arrays.
    """
    arrays = _by_last_names(read_arrays(path), path)
    hidden = _hidden(arrays, path)
    inputs = len(arrays["lstm_1/w_gates"]) - hidden if "lstm_1/w_gates" in arrays else 0
    preprocess = "identity" if inputs == 1 else "log_and_sign"
    scale = {"identity": 1.0, "log_and_sign": 0.01}[preprocess] if scale is None else scale
    make = partial(L2ODM, k=k, scale=scale, preprocess=preprocess, hidden=hidden)
    tensors = _tensors(make, _CELLS, arrays, path)
    (rule := make()).load_state_dict(tensors)
    return rule


def read_rnnprop(path: Path, *, alpha: float = 0.01) -> RNNprop:
    """RNNprop from the arrays of Chen et al. 2020.

    Args:
        path: an `.npz` or safetensors file.
        alpha: the largest update, which is not in the arrays; 0.01 in that code.

    Raises:
        WeightsError: the file is none, or has other arrays.
    """
    arrays = _by_last_names(read_arrays(path), path)
    make = partial(RNNprop, alpha=alpha, hidden=_hidden(arrays, path))
    tensors = _tensors(make, {**_PROJECTION, **_CELLS}, arrays, path)
    (rule := make()).load_state_dict(tensors)
    return rule


def _tensors(make: Callable[[], LearnedOptimizer], names: Mapping[str, str], arrays: Tree, path: Path) -> Tree:
    """The arrays by our names, if they are those that the rule needs."""
    shapes = {names[name]: shape for name, shape in asked_shapes(make).items()}
    found = taken(arrays, shapes, path)
    return {name: found[theirs] for name, theirs in names.items()}


def _hidden(arrays: Tree, path: Path) -> int:
    """The units of a layer."""
    if "linear/w" not in arrays or not len(arrays["linear/w"]):
        raise WeightsError(f"{path} has no array linear/w, but {', '.join(arrays) or 'none'}; is it of another format?")
    return len(arrays["linear/w"])


def _by_last_names(arrays: Tree, path: Path) -> Tree:
    """The arrays by module and variable, the last two parts of their names."""
    found: Tree = {}
    for name, leaf in arrays.items():
        last = "/".join(name.split(":")[0].split("/")[-2:])
        if last in found:
            raise WeightsError(f"{path} has {last} twice; write the arrays of one optimizer alone")
        found[last] = leaf
    return found
