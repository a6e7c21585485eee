"""Two processes that train one model, held against one process: replicas, shards, and checkpoints of both."""

from pathlib import Path
from typing import Any

import pytest
import torch
from contract.optimizer_cases import same
from integrations.cases import DESCENDING, OPTIMIZERS, framework, model, values, whole_loss
from integrations.two_processes import STEPS_TAKEN, begun, found_by_both, loaded, saved, train

from l2o.optimizers.torch_optim import STEPS

Both = dict[str, dict[str, list[Any]]]

HALF = STEPS_TAKEN // 2


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("two-processes")


@pytest.fixture(scope="module")
def both(folder: Path) -> Both:
    """What came of each job and optimizer in both processes, which also go on from checkpoints of this one."""
    for name in OPTIMIZERS:
        net = model()
        optimizer = begun(name, net)
        train(net, optimizer, HALF)
        saved(net, optimizer, folder / f"plain {name}")
    return found_by_both(folder)


def alone(optimizer: str, steps: int = STEPS_TAKEN) -> torch.nn.Module:
    """The model of one process, trained on whole minibatches."""
    net = model()
    train(net, begun(optimizer, net), steps)
    return net


def close(found: list[torch.Tensor], wanted: list[torch.Tensor]) -> None:
    """Sums in another order: gradients differ by 1e-7 of their size, which sign and log pass on where they are tiny."""
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


@framework("DistributedDataParallel")
def test_replicas_stay_equal_and_train_as_one_process(optimizer: str, both: Both) -> None:
    first, second = both["replicas"][optimizer]
    assert same(first, second)
    wanted = alone(optimizer)
    close(first["values"], values(wanted))
    assert optimizer not in DESCENDING or whole_loss(wanted) < whole_loss(model())


@framework("FSDP2 (fully_shard)")
def test_shards_train_as_one_process(optimizer: str, both: Both) -> None:
    first, second = both["shards"][optimizer]
    assert same(first["values"], second["values"])
    close(first["values"], values(alone(optimizer)))


@framework("FSDP2 (fully_shard)")
def test_state_of_each_coordinate_is_spread_as_the_parameter(optimizer: str, both: Both) -> None:
    """Of 31 numbers in tensors of 5, 5, 1 and 1 rows the first process holds 3, 3, 1 and 1."""
    first, second = both["shards"][optimizer]
    assert first["held"] + second["held"] == first["spread"] == second["spread"]
    couples = OPTIMIZERS[optimizer]().couples_coordinates
    assert first["held"] == (0 if couples else first["spread"] * (3 * 4 + 3 + 5 + 1) // 31)
    assert (first["held"] > 0) != couples


@framework("FSDP2 (fully_shard)")
def test_a_frozen_layer_of_shards_rests(optimizer: str, both: Both) -> None:
    wanted = model()
    reference = begun(optimizer, wanted)
    train(wanted, reference)
    wanted[2].requires_grad_(False)
    train(wanted, reference, 2, STEPS_TAKEN)
    for found in both["shards"][optimizer]:
        assert found["still"]
        close(found["frozen"], values(wanted))
        assert [int(state[STEPS]) for state in found["states"]] == [STEPS_TAKEN + 2] * 2 + [STEPS_TAKEN] * 2


@framework("FSDP2 (fully_shard)")
def test_a_bad_gradient_in_one_part_stops_the_step_everywhere(optimizer: str, both: Both) -> None:
    first, second = both["one_bad_gradient"][optimizer]
    assert "in another process, holds NaN" in first["error"]
    assert "(5, 4) holds NaN" in second["error"]
    for found in (first, second):
        assert same(found["after"], found["before"])
        assert found["scale"] == 2.0  # halved: the scaler left the step out in both


@framework("FSDP2 (fully_shard)")
def test_flat_pieces_of_its_forerunner_are_refused(optimizer: str, both: Both) -> None:
    for errors in both["flat_pieces"][optimizer]:
        assert len(errors) == 2
        assert all("shard with torch.distributed.fsdp.fully_shard" in error for error in errors)


@framework("distributed.checkpoint")
def test_a_checkpoint_of_one_process_goes_on_bit_for_bit(optimizer: str, tmp_path: Path) -> None:
    net, resumed = model(), model()
    half, again = begun(optimizer, net), begun(optimizer, resumed)
    train(net, half, HALF)
    saved(net, half, tmp_path)
    loaded(resumed, again, tmp_path)
    train(resumed, again, HALF, HALF)
    assert same(values(resumed), values(alone(optimizer)))


@framework("distributed.checkpoint")
def test_a_checkpoint_before_the_first_step_leaves_the_run_as_it_is(optimizer: str, tmp_path: Path) -> None:
    net, resumed = model(), model()
    first, again = begun(optimizer, net), begun(optimizer, resumed)
    saved(net, first, tmp_path)
    loaded(resumed, again, tmp_path)
    for each, stepped in ((net, first), (resumed, again)):
        train(each, stepped)
        assert same(values(each), values(alone(optimizer)))


@framework("distributed.checkpoint with FSDP2")
def test_a_checkpoint_of_shards_goes_on_bit_for_bit(optimizer: str, both: Both) -> None:
    for found in both["checkpoints"][optimizer]:
        assert same(found["resumed"], found["whole"])
        assert same(found["early"], found["whole"])  # a checkpoint before the first step changes nothing


@framework("distributed.checkpoint with FSDP2")
def test_a_checkpoint_goes_from_shards_to_one_process_and_back(optimizer: str, both: Both, folder: Path) -> None:
    net = model()
    optimizer_of_one = begun(optimizer, net)
    loaded(net, optimizer_of_one, folder / f"spread {optimizer}")
    train(net, optimizer_of_one, HALF, HALF)
    close(values(net), values(alone(optimizer)))
    for found in both["checkpoints"][optimizer]:
        close(found["from plain"], values(alone(optimizer)))
        assert same(found["from spread"], found["whole"])
