"""The parts of backbones, for layer-wise learning rates: disjoint, complete, in the order of use."""

import pytest
from pydantic import TypeAdapter

from models.backbones.timm import TimmBackbone
from models.base import Backbone
from models.components import BackboneConfig

# Number of parts, and how many parameters the first has.
CASES = {
    "mit_b0": (5, 4),
    "swin_t": (5, 4),
    "resnet50": (5, 3),
    "test_vit": (7, 4),
    "test_convnext": (5, 4),
    "test_resnet": (5, 9),
    "test_efficientnet": (5, None),
}


def build(name: str) -> Backbone:
    setting = {"name": name} if name in ("mit_b0", "swin_t", "resnet50") else {"name": "timm", "model": name}
    backbone: Backbone = TypeAdapter(BackboneConfig).validate_python({**setting, "weights": None}).build()
    return backbone


@pytest.mark.parametrize("name", CASES)
def test_every_parameter_is_in_one_part(name: str) -> None:
    backbone = build(name)
    names = [parameter for parameter, _ in backbone.named_parameters() if not parameter.startswith("pyramid.")]
    found = [[each for each in names if each.startswith(tuple(part))] for part in backbone.parts]
    assert sorted(each for part in found for each in part) == sorted(names)
    assert all(found)
    count, stem = CASES[name]
    assert len(found) == count
    assert stem is None or len(found[0]) == stem


@pytest.mark.parametrize("name", ["test_vit", "test_convnext", "test_resnet"])
def test_parts_are_those_that_freezing_counts(name: str) -> None:
    for frozen in (1, 2):
        backbone = (
            TypeAdapter(BackboneConfig)
            .validate_python({"name": "timm", "model": name, "weights": None, "frozen": frozen})
            .build()
        )
        assert isinstance(backbone, TimmBackbone)
        fixed = {each for each, parameter in backbone.named_parameters() if not parameter.requires_grad}
        assert fixed == {each for part in backbone.parts[: frozen + 1] for each in part}
