"""RNNprop as the code of its authors saves it: variables of TensorFlow's LSTM cells, in a TensorFlow checkpoint.

    nn_opt/loop/w [2, hidden], b                                     of the features, in the order (g~, m~)
    .../MultiRNNCell/CellK/LSTMCell/W_0 [inputs + hidden, 4 hidden], B     gates input, candidate, forget, output
    nn_opt/loop/fc_A/w [hidden, 1], b                                the update is SUBTRACTED: theta - alpha tanh(...)

TensorFlow 1 calls the cells' variables `multi_rnn_cell/cell_K/lstm_cell/kernel` and `bias` instead. Here the features
stand in the order (m~, g~), and the update is added: the rows of the first are exchanged, and the last layer changes
its sign, as tanh does with it. 1 is added to the forget gate when it runs, as here.

Source: Lv, Jiang and Li 2017, vfleaking/rnnprop.
"""

import re
from functools import partial
from pathlib import Path

from l2o.errors import WeightsError
from l2o.foreign.arrays import read_arrays, taken
from l2o.optimizers.rnnprop import RNNprop
from l2o.trees import Tree
from l2o.weights import asked_shapes

_NAMES = {
    r"(.*/)?cell_?0/.*/(w_0|weights|kernel)": "cell1.weight",
    r"(.*/)?cell_?0/.*/(b|biases|bias)": "cell1.bias",
    r"(.*/)?cell_?1/.*/(w_0|weights|kernel)": "cell2.weight",
    r"(.*/)?cell_?1/.*/(b|biases|bias)": "cell2.bias",
    r"(.*/)?fc_a/w": "output.weight",
    r"(.*/)?fc_a/b": "output.bias",
    r"(.*/)?loop/w": "input.weight",
    r"(.*/)?loop/b": "input.bias",
}


def read_rnnprop(path: Path, *, alpha: float = 0.1) -> RNNprop:
    """RNNprop from the arrays of its authors.

    Args:
        path: an `.npz` or safetensors file with the checkpoint's arrays by their names.
        alpha: the largest update, which is not in the arrays; 0.1 in that code.

    Raises:
        WeightsError: the file is none, or has other arrays.
    """
    arrays: Tree = {}
    for name, leaf in read_arrays(path).items():
        ours = _ours(name)
        if ours in arrays:
            raise WeightsError(
                f"{path} has two arrays for {ours}, {name} among them; write those of one optimizer alone"
            )
        arrays[ours] = leaf
    hidden = len(arrays["output.weight"]) if "output.weight" in arrays else 0
    if hidden < 1:
        raise WeightsError(f"{path} has no array fc_A/w, but {', '.join(arrays) or 'none'}; is it of another format?")
    make = partial(RNNprop, alpha=alpha, hidden=hidden)
    found = taken(arrays, asked_shapes(make), path)
    turned = {
        "input.weight": found["input.weight"].flip(0),
        "output.weight": -found["output.weight"],
        "output.bias": -found["output.bias"],
    }
    (rule := make()).load_state_dict({**found, **turned})
    return rule


def _ours(name: str) -> str:
    """What the array is called here; its own name if it is none of these."""
    plain = name.split(":")[0].lower()
    return next((ours for pattern, ours in _NAMES.items() if re.fullmatch(pattern, plain)), name)
