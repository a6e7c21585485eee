"""Trees: joining, flattening, freezing."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from l2o import trees

shapes = st.lists(st.lists(st.integers(1, 3), max_size=3).map(tuple), min_size=1, max_size=4)


@given(shapes, st.integers(1, 4))
def test_unflatten_inverts_flatten(leaf_shapes, tasks):
    tree = {str(i): torch.randn(tasks, *shape) for i, shape in enumerate(leaf_shapes)}
    flat = trees.flatten(tree)
    back = trees.unflatten(flat, tree)
    assert flat.shape == (tasks, sum(leaf[0].numel() for leaf in tree.values()))
    assert list(back) == list(tree)
    assert all(torch.equal(back[name], tree[name]) for name in tree)


def test_select_inverts_join():
    grad, params = {"a": torch.zeros(1), "b.c": torch.ones(1)}, {"a": torch.full((1,), 2.0)}
    tree = trees.join(grad=grad, params=params)
    assert list(tree) == ["grad/a", "grad/b.c", "params/a"]
    assert trees.select(tree, "grad") == grad
    assert trees.select(tree, "params") == params
    assert trees.select(tree, "gra") == {}


def test_split_tasks_gives_each_task_its_own_tree():
    tree = {"x": torch.arange(6).reshape(3, 2), "t": torch.arange(3)}
    split = trees.split_tasks(tree)
    assert [{name: leaf.tolist() for name, leaf in part.items()} for part in split] == [
        {"x": [0, 1], "t": 0},
        {"x": [2, 3], "t": 1},
        {"x": [4, 5], "t": 2},
    ]


def test_where_tasks_takes_whole_tasks():
    new, old = {"x": torch.ones(3, 2), "t": torch.ones(3)}, {"x": torch.zeros(3, 2), "t": torch.zeros(3)}
    mixed = trees.where_tasks(torch.tensor([True, False, True]), new, old)
    assert mixed["x"].tolist() == [[1, 1], [0, 0], [1, 1]]
    assert mixed["t"].tolist() == [1, 0, 1]


def test_finite_tasks_sees_every_leaf():
    tree = {"x": torch.zeros(3, 2), "t": torch.zeros(3)}
    tree["x"][1, 1] = torch.nan
    tree["t"][2] = torch.inf
    assert trees.finite_tasks(tree).tolist() == [True, False, False]


def test_to_moves_floats_only():
    tree = trees.to({"x": torch.zeros(1), "i": torch.zeros(1, dtype=torch.int64)}, "cpu", torch.float64)
    assert tree["x"].dtype == torch.float64
    assert tree["i"].dtype == torch.int64


def test_norms_run_over_all_leaves():
    assert trees.norms({"a": torch.tensor([[3.0], [0.0]]), "b": torch.tensor([4.0, 2.0])}).tolist() == [5.0, 2.0]
