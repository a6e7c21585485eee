"""Weights of other libraries take the steps that their own layouts say, computed here in NumPy alone."""

import pickle
import zipfile

import numpy as np
import pytest
import safetensors.numpy
import torch

import l2o
from l2o.cli.main import main
from l2o.errors import ArgumentError, WeightsError
from l2o.foreign import arrays, lv, pylo, sonnet
from l2o.foreign.arrays import read_arrays

STEPS, HIDDEN = 6, 5


def drawn(shapes, seed=0, size=0.4):
    """Arrays of these shapes in float32, as the published ones are."""
    generator = np.random.default_rng(seed)
    return {name: (size * generator.standard_normal(shape)).astype(np.float32) for name, shape in shapes.items()}


def as_npz(path, values):
    np.savez(path, **values)


def as_safetensors(path, values):
    safetensors.numpy.save_file({name: np.ascontiguousarray(value) for name, value in values.items()}, path)


def gradients(*shape):
    """Gradients of several steps and of all sizes, some of them 0."""
    generator = np.random.default_rng(7)
    found = generator.standard_normal((STEPS, *shape)) * 10 ** generator.uniform(-7, 2, (STEPS, *shape))
    return np.where(generator.uniform(size=found.shape) < 0.1, 0.0, found)


def steps_of(rule, grads):
    """The updates of a coordinate-wise rule for gradients `[steps, coordinates]`, in float64."""
    rule = rule.double()
    state, found = rule.init_coordinates(1, grads.shape[1], torch.zeros((), dtype=torch.float64)), []
    with torch.no_grad():
        for grad in torch.from_numpy(grads):
            update, state = rule.update(grad[None], state)
            found.append(update[0].numpy())
    return np.stack(found)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


class Cell:
    """An LSTM cell as Sonnet 1 and TensorFlow's LSTMCell run it, for `coordinates` rows."""

    def __init__(self, weight, bias, coordinates):
        self.weight, self.bias = weight.astype(np.float64), bias.astype(np.float64)
        self.h = self.c = np.zeros((coordinates, len(bias) // 4))

    def __call__(self, x):
        units = self.h.shape[1]
        z = np.concatenate([x, self.h], axis=1) @ self.weight + self.bias
        i, j, f, o = z[:, :units], z[:, units : 2 * units], z[:, 2 * units : 3 * units], z[:, 3 * units :]
        self.c = sigmoid(f + 1.0) * self.c + sigmoid(i) * np.tanh(j)
        self.h = np.tanh(self.c) * sigmoid(o)
        return self.h


def dm_shapes(inputs):
    return {
        "lstm_1/w_gates": (inputs + HIDDEN, 4 * HIDDEN),
        "lstm_1/b_gates": (4 * HIDDEN,),
        "lstm_2/w_gates": (2 * HIDDEN, 4 * HIDDEN),
        "lstm_2/b_gates": (4 * HIDDEN,),
        "linear/w": (HIDDEN, 1),
        "linear/b": (1,),
    }


def dm_in_numpy(values, grads, *, k, scale, logarithms):
    """delta = scale (h2 w + b) over the log-and-sign features of Andrychowicz et al. 2016, or the gradient itself."""
    coordinates = grads.shape[1]
    cells = [Cell(values[f"lstm_{n}/w_gates"], values[f"lstm_{n}/b_gates"], coordinates) for n in (1, 2)]
    found = []
    for grad in grads:
        x = grad[:, None]
        if logarithms:
            magnitude = np.maximum(np.log(np.abs(grad) + np.finfo(np.float32).eps) / k, -1.0)
            x = np.stack([magnitude, np.clip(grad * np.exp(k), -1.0, 1.0)], axis=1)
        h = cells[1](cells[0](x))
        found.append(scale * (h @ values["linear/w"].astype(np.float64) + values["linear/b"])[:, 0])
    return np.stack(found)


def rnnprop_in_numpy(cells, first, last, grads, *, alpha, order, sign):
    """The moments of Lv et al. 2017 through two cells; `order` of (m~, g~), `sign` of the update."""
    m, v, found = np.zeros(grads.shape[1]), np.zeros(grads.shape[1]), []
    for t, grad in enumerate(grads, start=1):
        m, v = 0.95 * m + 0.05 * grad, 0.95 * v + 0.05 * grad**2
        root = np.sqrt(v / (1 - 0.95**t)) + 1e-8
        features = np.stack([(m / (1 - 0.95**t) / root, grad / root)[place] for place in order], axis=1)
        x = features @ first[0].astype(np.float64) + first[1]
        h = cells[1](cells[0](np.where(x > 0, x, np.expm1(x))))
        found.append(sign * alpha * np.tanh(h @ last[0].astype(np.float64) + last[1])[:, 0])
    return np.stack(found)


@pytest.mark.parametrize("write", [as_npz, as_safetensors])
@pytest.mark.parametrize(("inputs", "k", "scale"), [(2, 5.0, 0.01), (2, 10.0, 0.1), (1, 5.0, 1.0)])
def test_sonnet_dm_steps_as_its_arrays_say(inputs, k, scale, write, tmp_path):
    values, grads = drawn(dm_shapes(inputs)), gradients(9)
    write(tmp_path / "dm", values)
    path = next(tmp_path.iterdir())
    rule = sonnet.read_dm(path, k=k, scale=None if k == 5.0 else scale)  # those of the public code
    wanted = dm_in_numpy(values, grads, k=k, scale=scale, logarithms=inputs == 2)
    np.testing.assert_allclose(steps_of(rule, grads), wanted, rtol=1e-12, atol=1e-15)
    assert rule.config()["preprocess"] == ("log_and_sign" if inputs == 2 else "identity")


def test_scopes_and_endings_of_tensorflow_make_no_difference(tmp_path):
    values = drawn(dm_shapes(2))
    as_npz(tmp_path / "plain.npz", values)
    as_npz(tmp_path / "scoped.npz", {f"vars_optimizer/cw_deep_lstm/{name}:0": leaf for name, leaf in values.items()})
    plain, scoped = sonnet.read_dm(tmp_path / "plain.npz"), sonnet.read_dm(tmp_path / "scoped.npz")
    assert all(torch.equal(leaf, scoped.state_dict()[name]) for name, leaf in plain.state_dict().items())


def test_sonnet_rnnprop_steps_as_its_arrays_say(tmp_path):
    shapes = {**dm_shapes(HIDDEN), "input_projection/w": (2, HIDDEN), "input_projection/b": (HIDDEN,)}
    values, grads = drawn(shapes), gradients(9)
    as_npz(tmp_path / "rnnprop.npz", values)
    cells = [Cell(values[f"lstm_{n}/w_gates"], values[f"lstm_{n}/b_gates"], 9) for n in (1, 2)]
    first = values["input_projection/w"], values["input_projection/b"]
    last = values["linear/w"], values["linear/b"]
    wanted = rnnprop_in_numpy(cells, first, last, grads, alpha=0.01, order=(0, 1), sign=1)
    found = steps_of(sonnet.read_rnnprop(tmp_path / "rnnprop.npz"), grads)
    np.testing.assert_allclose(found, wanted, rtol=1e-9, atol=1e-15)  # theirs: 1 - 0.95^t, ours: expm1


LV_NAMES = {
    "TensorFlow 0": ("cellA/MultiRNNCell/Cell{}/LSTMCell/W_0", "cellA/MultiRNNCell/Cell{}/LSTMCell/B"),
    "TensorFlow 1": ("cellA/multi_rnn_cell/cell_{}/lstm_cell/kernel", "cellA/multi_rnn_cell/cell_{}/lstm_cell/bias"),
}


@pytest.mark.parametrize(("weight", "bias"), LV_NAMES.values(), ids=LV_NAMES.keys())
def test_rnnprop_of_its_authors_steps_as_its_arrays_say(weight, bias, tmp_path):
    shapes = {
        "w": (2, HIDDEN),
        "b": (HIDDEN,),
        weight.format(0): (2 * HIDDEN, 4 * HIDDEN),
        bias.format(0): (4 * HIDDEN,),
        weight.format(1): (2 * HIDDEN, 4 * HIDDEN),
        bias.format(1): (4 * HIDDEN,),
        "fc_A/w": (HIDDEN, 1),
        "fc_A/b": (1,),
    }
    values, grads = drawn(shapes), gradients(9)
    as_npz(tmp_path / "lv.npz", {f"nn_opt/loop/{name}": leaf for name, leaf in values.items()})
    cells = [Cell(values[weight.format(n)], values[bias.format(n)], 9) for n in (0, 1)]
    first, last = (values["w"], values["b"]), (values["fc_A/w"], values["fc_A/b"])
    wanted = rnnprop_in_numpy(cells, first, last, grads, alpha=0.1, order=(1, 0), sign=-1)
    np.testing.assert_allclose(steps_of(lv.read_rnnprop(tmp_path / "lv.npz"), grads), wanted, rtol=1e-9, atol=1e-15)


PYLO_SHAPES = {
    "network.input.weight": (32, 39),
    "network.input.bias": (32,),
    "network.linear_0.weight": (32, 32),
    "network.linear_0.bias": (32,),
    "network.output.weight": (2, 32),
    "network.output.bias": (2,),
}


class AdafacLO:
    """PyLO's optimizer for one tensor, with averages as its last axis, from its weights and what moves its decays."""

    def __init__(self, values, decays, shape, *, step_mult=0.01, exp_mult=0.001):
        self.layers = [
            (values[f"network.{name}.weight"].astype(np.float64), values[f"network.{name}.bias"].astype(np.float64))
            for name in ("input", "linear_0", "output")
        ]
        first = np.array([0.9, 0.99, 0.999, 0.999, 0.9, 0.99, 0.999])
        found = np.clip(1 - np.exp(10 * (np.log(1 - first) / 10 + np.float32(decays).astype(np.float64))), 0, 1)
        self.beta_m, self.beta_rms, self.beta_fac = found[:3], found[3:4], found[4:]
        self.m, self.v = np.zeros((*shape, 3)), np.zeros((*shape, 1))
        self.step_mult, self.exp_mult, self.step = step_mult, exp_mult, 0
        self.axes = None
        if len(shape) < 2:
            self.full = np.zeros((*shape, 3))
            return
        *_, second, longest = np.argsort(shape, kind="stable")
        self.axes = int(second), int(longest)
        self.row = np.zeros([*(n for axis, n in enumerate(shape) if axis != longest), 3])
        self.column = np.zeros([*(n for axis, n in enumerate(shape) if axis != second), 3])

    def factors(self, g):
        """Row and column features, and what gradient and momentum are multiplied by, `[*shape, 3]`."""
        squared = (g**2)[..., None] + 1e-30
        if self.axes is None:
            self.full = self.beta_fac * self.full + (1 - self.beta_fac) * squared
            return self.full, self.full, 1 / np.sqrt(self.full + 1e-9), 1 / np.sqrt(self.full + 1e-6)
        second, longest = self.axes
        self.row = self.beta_fac * self.row + (1 - self.beta_fac) * squared.mean(longest)
        self.column = self.beta_fac * self.column + (1 - self.beta_fac) * squared.mean(second)
        among_rows = second - 1 if second > longest else second
        relative = self.row / (self.row.mean(among_rows, keepdims=True) + 1e-9)
        row_factor = 1 / np.sqrt(np.maximum(relative, 1e-9))
        column_factor = 1 / np.sqrt(np.maximum(self.column, 1e-9))
        both = np.expand_dims(row_factor, longest) * np.expand_dims(column_factor, second)
        whole = np.broadcast_to(np.expand_dims(self.row, longest), (*g.shape, 3))
        return whole, np.broadcast_to(np.expand_dims(self.column, second), (*g.shape, 3)), both, both

    def __call__(self, p, g):
        """The update for parameters and gradient of the tensor's shape."""
        self.m = self.beta_m * self.m + (1 - self.beta_m) * g[..., None]
        self.v = self.beta_rms * self.v + (1 - self.beta_rms) * (g**2)[..., None]
        row, column, of_gradient, of_momentum = self.factors(g)
        root = 1 / np.sqrt(self.v + 1e-6)
        features = [g[..., None], p[..., None], self.m, self.v, self.m * root, root, g[..., None] * of_gradient]
        features += [row, column, 1 / np.sqrt(row + 1e-8), 1 / np.sqrt(column + 1e-8), self.m * of_momentum]
        x = np.concatenate(features, axis=-1)
        x = x / np.sqrt(1e-5 + (x**2).mean(tuple(range(g.ndim)), keepdims=True))
        scales = np.array([1, 3, 10, 30, 100, 300, 1000, 3000, 10000, 30000, 100000])
        time = np.broadcast_to(np.tanh(self.step / scales - 1), (*g.shape, 11))
        self.step += 1
        x = np.concatenate([x, time], axis=-1)
        for place, (weight, bias) in enumerate(self.layers):
            x = x @ weight.T + bias
            x = np.maximum(x, 0) if place < 2 else x
        return -x[..., 0] * np.exp(x[..., 1] * self.exp_mult) * self.step_mult


@pytest.mark.parametrize("shape", [(7,), (3, 8), (8, 3), (4, 4), (2, 3, 5, 4), (5, 2, 5)], ids=str)
def test_small_fc_of_pylo_steps_as_its_weights_say(shape, tmp_path):
    values, grads = drawn(PYLO_SHAPES, size=0.2), gradients(*shape)
    as_safetensors(tmp_path / "model.safetensors", values)
    rule = pylo.read_small_fc(tmp_path / "model.safetensors").double()
    theirs, theta = AdafacLO(values, pylo.MULO_DECAYS, shape), np.random.default_rng(1).standard_normal(shape)
    state = rule.init_state({"p": torch.zeros((1, *shape), dtype=torch.float64)}, l2o.Stream(0))
    for grad in grads:
        seen = {"grad/p": torch.from_numpy(grad)[None], "params/p": torch.from_numpy(theta)[None]}
        with torch.no_grad():
            update, state = rule(seen, state)
        wanted = theirs(theta, grad)
        np.testing.assert_allclose(update["p"][0].numpy(), wanted, rtol=1e-8, atol=1e-14)
        theta = theta + wanted
    assert np.abs(wanted).max() > 1e-4


def test_other_decays_of_pylo_are_taken(tmp_path):
    as_safetensors(tmp_path / "m.safetensors", drawn(PYLO_SHAPES))
    rule = pylo.read_small_fc(tmp_path / "m.safetensors", decays=[0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7])
    kept = [rule.momentum_decays.tolist(), rule.square_decay.tolist(), rule.factored_decays.tolist()]
    assert kept == [pytest.approx([0.1, 0.2, 0.3]), pytest.approx([0.4]), pytest.approx([0.5, 0.6, 0.7])]
    with pytest.raises(ArgumentError, match="decays has 2 numbers"):
        pylo.read_small_fc(tmp_path / "m.safetensors", decays=[0.1, 0.2])


def test_the_published_file_of_pylo_has_the_size_of_these_tensors(tmp_path):
    as_safetensors(tmp_path / "model.safetensors", drawn(PYLO_SHAPES))
    assert (tmp_path / "model.safetensors").stat().st_size == 10_096  # that of btherien/mulo


# ---- what is refused

READERS = {"sonnet dm": sonnet.read_dm, "sonnet rnnprop": sonnet.read_rnnprop, "lv": lv.read_rnnprop,
           "pylo": pylo.read_small_fc}  # fmt: skip
every_reader = pytest.mark.parametrize("read", READERS.values(), ids=READERS.keys())


class Spy:
    """Unpickled, it would leave a mark."""

    marked = False

    def __reduce__(self):
        return (setattr, (Spy, "marked", True))


def pickled(path):
    path.write_bytes(pickle.dumps({"lstm_1": Spy()}))


def pickled_as_text(path):
    path.write_bytes(pickle.dumps({"lstm_1": Spy()}, protocol=0))


def saved_by_torch(path):
    torch.save({"lstm_1": Spy()}, path)


def objects_in_npz(path):
    np.savez(path, **{"linear/w": np.array([Spy()], dtype=object)})


@every_reader
@pytest.mark.parametrize("write", [pickled, pickled_as_text, saved_by_torch, objects_in_npz])
def test_pickles_are_refused_and_never_run(write, read, tmp_path):
    write(path := tmp_path / "weights.npz")
    with pytest.raises(WeightsError, match=r"is a pickle, or holds one.*write its arrays by name with numpy.savez"):
        read(path)
    assert not Spy.marked


@every_reader
def test_files_of_another_kind_are_refused(read, tmp_path):
    path = tmp_path / "weights.npz"
    with pytest.raises(WeightsError, match=r"cannot read .*weights.npz: No such file"):
        read(path)
    for content in (b"", b"hello", b"\x89HDF\r\n\x1a\n"):
        path.write_bytes(content)
        with pytest.raises(WeightsError, match=r"is neither .npz nor safetensors; write its arrays with numpy.savez"):
            read(path)


@every_reader
def test_arrays_of_another_rule_are_refused(read, tmp_path):
    as_npz(tmp_path / "w.npz", {"other/w": np.zeros(3)})
    with pytest.raises(WeightsError, match=r"has no array .*, but other/w; is it of another format"):
        read(tmp_path / "w.npz")


def test_a_missing_array_one_too_many_and_a_transposed_one_are_named(tmp_path):
    values = drawn(dm_shapes(2))
    wrong = {
        r"lstm_2/b_gates: none, not \(20,\)": {n: leaf for n, leaf in values.items() if n != "lstm_2/b_gates"},
        r"lstm_1/w_f_diag: \(5,\), not wanted": {**values, "lstm_1/w_f_diag": np.zeros(5)},
        r"lstm_2/w_gates: \(20, 10\), not \(10, 20\)": {**values, "lstm_2/w_gates": values["lstm_2/w_gates"].T},
    }
    for number, (message, arrays_) in enumerate(wrong.items()):
        as_npz(tmp_path / f"{number}.npz", arrays_)
        with pytest.raises(WeightsError, match=rf"does not have the arrays of this format \({message}\)"):
            sonnet.read_dm(tmp_path / f"{number}.npz")


def test_two_optimizers_in_one_file_are_refused(tmp_path):
    values = drawn(dm_shapes(2))
    as_npz(tmp_path / "w.npz", {f"{net}/{name}": leaf for net in ("conv", "fc") for name, leaf in values.items()})
    with pytest.raises(WeightsError, match=r"has lstm_1/w_gates twice; write the arrays of one optimizer alone"):
        sonnet.read_dm(tmp_path / "w.npz")


def test_a_file_that_asks_for_a_huge_network_is_refused_before_it_is_built(tmp_path):
    as_npz(tmp_path / "w.npz", {"linear/w": np.zeros((10**6, 1)), "lstm_1/w_gates": np.zeros((10**6 + 2, 1))})
    with pytest.raises(WeightsError, match=r"lstm_1/w_gates: \(1000002, 1\), not \(1000002, 4000000\)"):
        sonnet.read_dm(tmp_path / "w.npz")


@pytest.mark.parametrize("write", [as_npz, as_safetensors])
def test_numbers_that_are_not_finite_are_refused(write, tmp_path):
    write(tmp_path / "w.npz", {**drawn(dm_shapes(2)), "linear/b": np.array([np.nan], dtype=np.float32)})
    with pytest.raises(WeightsError, match=r"linear/b in .* has numbers that are not finite"):
        read_arrays(tmp_path / "w.npz")


@pytest.mark.parametrize("write", [as_npz, as_safetensors])
def test_truncated_and_altered_files_are_refused(write, tmp_path):
    write(tmp_path / "w.npz", drawn(dm_shapes(2)))
    whole = (tmp_path / "w.npz").read_bytes()
    for length in range(20, len(whole), 97):
        (tmp_path / "w.npz").write_bytes(whole[:length])
        with pytest.raises(WeightsError, match=r"is not a whole|take another copy"):
            read_arrays(tmp_path / "w.npz")


def test_an_array_whose_header_asks_for_more_than_is_there_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "w.npz", "w") as archive, archive.open("a.npy", "w") as member:
        np.lib.format.write_array_header_1_0(member, {"descr": "<f8", "fortran_order": False, "shape": (10**15,)})
        member.write(bytes(64))
    with pytest.raises(WeightsError, match=r"a.npy in .* is \(1000000000000000,\) of float64, and has 64 bytes"):
        read_arrays(tmp_path / "w.npz")


def test_files_that_are_too_large_are_refused(tmp_path, monkeypatch):
    np.savez_compressed(tmp_path / "packed.npz", a=np.zeros(100_000))
    as_safetensors(tmp_path / "plain.safetensors", {"a": np.zeros(100_000, dtype=np.float32)})
    monkeypatch.setattr(arrays, "LARGEST", 10_000)
    with pytest.raises(WeightsError, match=r"packed.npz has 800,128 bytes unpacked; at most 10,000"):
        read_arrays(tmp_path / "packed.npz")
    with pytest.raises(WeightsError, match=r"plain.safetensors has [\d,]+ bytes; at most 10,000"):
        read_arrays(tmp_path / "plain.safetensors")


def test_arrays_of_any_number_type_and_order_are_the_same(tmp_path):
    values = np.arange(6.0).reshape(2, 3)
    found = [
        values,
        values.astype(np.float16),
        values.astype(np.int64),
        np.asfortranarray(values),
        values.astype(">f4"),
    ]
    as_npz(tmp_path / "w.npz", {f"a{place}": value for place, value in enumerate(found)})
    assert len(read_arrays(tmp_path / "w.npz")) == 5
    for leaf in read_arrays(tmp_path / "w.npz").values():
        assert torch.equal(leaf, torch.arange(6.0).reshape(2, 3))
    as_npz(tmp_path / "w.npz", {"texts": np.array(["a"])})
    with pytest.raises(WeightsError, match=r"texts.npy in .* is of <U1; meta-parameters are numbers"):
        read_arrays(tmp_path / "w.npz")


# ---- the command


def test_an_import_is_weights_with_a_card_that_says_where_they_come_from(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    as_npz("dm.npz", drawn(dm_shapes(2)))
    options = ["--k", "10", "--scale", "0.1", "--horizon", "100", "--notes", "Of a test, MIT."]
    assert main(["import", "sonnet-dm", "dm.npz", "--out", "mine", *options]) == 0
    rule, card = l2o.load("mine.safetensors"), l2o.load_card("mine.safetensors")
    assert rule.config() == {"k": 10.0, "scale": 0.1, "preprocess": "log_and_sign", "hidden": HIDDEN}
    assert rule.horizon == 100
    assert (card.method, card.kind) == ("imported, sonnet-dm", "optimizer")
    assert card.notes.startswith("Imported from dm.npz (sha256 ")
    assert card.notes.endswith("Of a test, MIT.")
    as_safetensors("model.safetensors", drawn(PYLO_SHAPES))
    assert main(["import", "pylo-small-fc", "model.safetensors", "--out", "small"]) == 0
    assert l2o.load("small.safetensors").config() == {"scale": 0.01, "exponent": 0.001, "hidden": 32}
    assert l2o.load("small.safetensors").horizon is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["sonnet-dm", "nowhere.npz"], "cannot read nowhere.npz"),
        (["sonnet-dm", "."], ". is a folder; pass the file in it"),
        (["lv-rnnprop", "w.npz", "--k", "10"], "--k is 10.0, and has no effect without sonnet-dm"),
        (["sonnet-rnnprop", "w.npz", "--decays", "1", "2"], "has no effect without pylo-small-fc"),
        (["sonnet-dm", "w.npz", "--horizon", "-1"], "--horizon is -1"),
    ],
)
def test_an_import_that_makes_no_sense_is_one_clear_line(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["import", *arguments, "--out", "out"]) == 1
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
