"""Parts of a model that are frozen by name."""

import pytest
import torch

from errors import UserError
from experiment import load_experiment
from models.base import DenseModel
from tests.conftest import ROOT


def build(*frozen: str) -> DenseModel:
    setting = [f"frozen=[{', '.join(frozen)}]", "model.backbone.channels=[8, 16, 40, 64]", "model.channels=16"]
    return load_experiment(ROOT / "configs/small/seg.yaml", setting).build_model()


def test_named_parts_and_weights_do_not_learn_and_rest() -> None:
    model = build("backbone.stages.1", "head.norm", "head.classifier.bias")
    model.train()
    fixed = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    names = [name for name, _ in model.named_parameters()]
    expected = ("backbone.stages.1.", "head.norm.", "head.classifier.bias")
    assert fixed == {name for name in names if name.startswith(expected)}
    resting = {name for name, module in model.named_modules() if not module.training}
    assert {"head.norm", "backbone.stages.1", "backbone.stages.1.norm"} <= resting
    assert not any(name.startswith(("backbone.stages.0", "head.classifier")) for name in resting)
    before = model.get_buffer("head.norm.running_mean").clone()
    model.outputs(torch.randn(2, 3, 64, 64))
    assert torch.equal(model.get_buffer("head.norm.running_mean"), before)


def test_frozen_weights_are_the_same_numbers() -> None:
    for left, right in zip(build().parameters(), build("backbone").parameters(), strict=True):
        assert torch.equal(left, right)


@pytest.mark.parametrize("name", ["backbone.stage.1", "head.classifier.", "stages"])
def test_a_name_that_the_model_lacks_is_an_error(name: str) -> None:
    with pytest.raises(UserError, match=f"frozen: the model has no {name}; "):
        build(name)
