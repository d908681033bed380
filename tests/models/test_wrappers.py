"""What training code wraps around a model comes off, in any order, and of two copies it is said which is taken."""

import itertools

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from models.wrappers import AVERAGES, MODELS, state_or_none, unwrap, unwrap_names

State = dict[str, torch.Tensor]


def network(seed: int = 0) -> State:
    torch.manual_seed(seed)
    return dict(nn.ModuleDict({"stem": nn.Linear(2, 2), "norm": nn.BatchNorm1d(2)}).state_dict())


def named(prefix: str, state: State) -> State:
    return {prefix + name: value for name, value in state.items()}


def same(left: State, right: State) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def taken(content: object) -> tuple[State, str]:
    found = unwrap(content, state_or_none)
    assert found is not None
    return found


@pytest.mark.parametrize("count", [1, 2, 3])
def test_prefixes_come_off_in_any_order(count):
    for parts in itertools.permutations(["module.", "_orig_mod.", "model.", "ema_model.", "net."], count):
        assert same(unwrap_names(named("".join(parts), network()))[0], network()), parts


def test_prefixes_of_compiled_and_distributed_parts_come_off_inside_names():
    state = {name.replace("stem.", "stem._orig_mod.module."): value for name, value in network().items()}
    assert same(unwrap_names(named("model.", state))[0], network())


@pytest.mark.parametrize("key", [*AVERAGES, *MODELS])
def test_containers_come_off(key):
    state, remark = taken({key: named("module.", network()), "epoch": 3, "optimizer": {"state": {}}})
    assert same(state, network())
    assert remark == ""


def test_containers_come_off_in_containers():
    assert same(taken({"state_dict": {"model": {"module": network(), "updates": 7}}})[0], network())


def test_what_pytorch_saves_of_an_average_is_its_model():
    model = nn.Linear(2, 2)
    state = AveragedModel(nn.ModuleDict({"model": model})).state_dict()
    assert same(unwrap_names(state)[0], dict(model.state_dict()))


def test_the_average_is_taken_and_named():
    weights, average = network(0), network(1)
    for key in AVERAGES:
        state, remark = taken({"model": weights, key: {"module": average}})
        assert same(state, average)
        assert remark == f"the average of the weights ({key}), not model"


def test_an_average_beside_the_model_in_one_dictionary_is_taken_and_named():
    state, remark = taken({"state_dict": named("model.", network(0)) | named("ema_model.module.", network(1))})
    assert same(state, network(1))
    assert remark == "the average of the weights (ema_model), not the weights themselves"


def test_an_average_that_is_not_complete_gives_way_to_the_weights():
    average = {name: value for name, value in network(1).items() if "running" not in name}
    state, remark = unwrap_names(named("model.", network(0)) | named("ema.", average))
    assert same(state, network(0))
    assert remark == "the weights themselves, not their average (ema), which is not complete"


@pytest.mark.parametrize("average", [None, {}, {"decay": 0.9}])
def test_an_average_without_tensors_counts_for_nothing(average):
    state, remark = taken({"model": network(), "ema": average})
    assert same(state, network())
    assert remark == ""


def test_the_average_of_mmengine_is_called_state_dict():
    other = {"steps": torch.tensor(5), **named("module.", network(1))}
    state, remark = taken({"state_dict": network(0), "ema_state_dict": other})
    assert same(state, network(0))
    assert "average" in remark
    assert "state_dict" in remark


def test_the_other_copy_of_mmcv_is_left_out():
    other = {f"ema_{name.replace('.', '_')}": value for name, value in network(1).items()}
    state, remark = taken({"state_dict": network(0) | other})
    assert same(state, network(0))
    assert "average" in remark


def test_what_training_code_keeps_beside_the_model_is_left_out():
    state = named("model.", network()) | {"criterion.weight": torch.ones(3), "n_averaged": torch.tensor(2)}
    assert same(unwrap_names(state)[0], network())


@pytest.mark.parametrize(
    "names",
    [
        ["model.pixel_level_module.a", "class_predictor.b"],  # a MaskFormer of the hub
        ["encoder.block.0.a", "encoder.block.1.a"],
        ["backbone.a", "criterion.b"],
        ["net.a", "network.b"],
    ],
)
def test_names_of_models_stay_as_they_are(names):
    state = {name: torch.ones(1) for name in names}
    assert unwrap_names(state)[0].keys() == state.keys()


def test_names_that_would_become_equal_stay_as_they_are():
    state = {"module.a": torch.ones(1), "a": torch.zeros(1)}
    assert unwrap_names(state)[0].keys() == state.keys()


def test_circles_and_other_contents_hold_no_model():
    circle: dict[str, object] = {"epoch": 1}
    circle["model"] = circle["state_dict"] = circle
    for content in (circle, {}, {"model": {}}, [], None, 7, {"model": {"a": 1}}, {1: torch.ones(1)}):
        assert unwrap(content, state_or_none) is None
