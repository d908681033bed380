"""Every model on backbones of timm: built and counted for many families, one training step for two tiny networks."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter

from models import ModelConfig
from models.base import DenseModel
from models.cost import complexity, shapes_only
from structures import Batch, DatasetInfo, Target
from tests.conftest import some
from tests.models.backbones.test_timm import FAMILIES, LARGER_FAMILIES
from tests.models.rcnn.examples import batch as batch_of_objects

CLASSES = tuple("abcde")
PANOPTIC = DatasetInfo("panoptic", "any", CLASSES, things=(True, True, True, False, False))
SMALL_DETECTOR = {"channels": 32, "box_head": {"channels": 32}, "rpn": {"anchors": {"scale": 4}}}
SMALL_TRANSFORMER = {"channels": 32, "queries": 5, "layers": 1, "hidden": 32}
MODELS: dict[str, tuple[DatasetInfo, dict[str, Any]]] = {
    "segformer": (DatasetInfo("semantic", "any", CLASSES), {"channels": 16}),
    "maskformer": (DatasetInfo("semantic", "any", CLASSES), SMALL_TRANSFORMER),
    "faster_rcnn": (DatasetInfo("detection", "any", CLASSES), SMALL_DETECTOR),
    "mask_rcnn": (DatasetInfo("instance", "any", CLASSES), {**SMALL_DETECTOR, "mask_channels": 32}),
    "panoptic_fpn": (PANOPTIC, {**SMALL_DETECTOR, "mask_channels": 32, "semantic_channels": 32}),
    "depthformer": (DatasetInfo("depth", "any", max_depth=10.0), {"channels": 32, "stem_channels": 16}),
}
TINY = ["test_resnet", "test_vit"]
BOXES = [[[10.0, 20, 60, 90], [80, 30, 120, 100]], [[30.0, 10, 100, 60]]]


def build(name: str, backbone: str, **options: Any) -> DenseModel:
    torch.manual_seed(0)
    info, small = MODELS[name]
    record = {
        "name": name,
        "upsampler": "dysample",
        **small,
        "backbone": {"name": "timm", "model": backbone, **options},
    }
    return TypeAdapter(ModelConfig).validate_python(record).build(info, pretrained=False)


def batch(name: str) -> Batch:
    """Two images of 128 x 128 pixels with what each task learns from."""
    objects = batch_of_objects(BOXES, (128, 128))
    semantic = torch.arange(128, dtype=torch.int16).expand(128, 128) % len(CLASSES)
    targets: list[Target] = []
    for target in objects.targets:
        found = target.instances
        assert found is not None
        things = replace(found, labels=found.labels % 3)
        targets.append(replace(target, semantic=semantic, depth=torch.rand(128, 128) * 5, instances=things))
    if name == "maskformer":
        targets = [replace(target, instances=None) for target in targets]
    return Batch(objects.images, objects.sizes, targets)


@pytest.mark.parametrize("name", some(MODELS, "segformer"))
@pytest.mark.parametrize("backbone", some(dict.fromkeys([*TINY, *FAMILIES, *LARGER_FAMILIES]), *TINY))
def test_every_model_is_built_and_counted_on_every_family(name: str, backbone: str) -> None:
    with shapes_only():
        model = build(name, backbone)
    counts = complexity(model, (128, 192))
    assert counts["macs"] > counts["upsamplers"]["macs"] > 0
    assert counts["params"] == counts["params_trainable"]


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("backbone", TINY)
def test_every_model_trains_and_predicts(name: str, backbone: str) -> None:
    model, examples = build(name, backbone), batch(name)
    losses = model.train()(examples)
    assert all(loss.isfinite() for loss in losses.values())
    torch.stack(list(losses.values())).sum().backward()
    silent = [key for key, parameter in model.backbone.named_parameters() if parameter.grad is None]
    assert silent == []
    assert len(model.eval().predict(examples)) == 2


def test_images_with_other_channels_pass_through_a_whole_model() -> None:
    model = build("depthformer", "test_resnet", in_chans=4).eval()
    assert model.outputs(torch.randn(1, 4, 64, 64))["depth"].shape == (1, 1, 64, 64)
    assert complexity(model, (64, 64))["input"] == [4, 64, 64]
