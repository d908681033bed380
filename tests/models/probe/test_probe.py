"""The probe: only upsamplers and the convolution learn, at both sizes, for both tasks, with every upsampler."""

from typing import Any

import pytest
import torch
from pydantic import TypeAdapter
from torch import Tensor, nn

from models import ModelConfig
from models.cost import complexity
from models.probe.model import Probe
from structures import IGNORE, Batch, DatasetInfo, Size, Target
from tests.conftest import UPSAMPLERS

SEMANTIC = DatasetInfo("semantic", "any", tuple("abcde"))
DEPTH = DatasetInfo("depth", "any", max_depth=10.0)
VIT = {"name": "timm", "model": "test_vit", "weights": None}
CNN = {"name": "timm", "model": "test_resnet", "weights": None}
MIT = {"name": "mit_b0", "channels": [8, 16, 40, 64], "depths": [1, 1, 1, 1]}


def build(upsampler: object = "dysample", info: DatasetInfo = SEMANTIC, backbone: Any = CNN, **options: Any) -> Probe:
    torch.manual_seed(0)
    record = {"name": "probe", "backbone": backbone, "upsampler": upsampler, **options}
    return TypeAdapter(ModelConfig).validate_python(record).build(info, pretrained=False)


def batch(size: Size = (64, 96), original: Size = (50, 70)) -> Batch:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(2, 3, *size, generator=generator)
    labels = torch.randint(IGNORE, 5, (2, *size), generator=generator).to(torch.int16)
    depths = torch.rand(2, *size, generator=generator) * 9
    targets = [
        Target(str(index), original, semantic=semantic, depth=depth)
        for index, (semantic, depth) in enumerate(zip(labels, depths, strict=True))
    ]
    return Batch(images, [size, (size[0] - 8, size[1] - 16)], targets)


def step(model: Probe) -> dict[str, Tensor]:
    """One optimiser step; returns the tensors of the model that it changed."""
    before = {name: value.clone() for name, value in model.state_dict().items()}
    loss = sum(model.train()(batch()).values())
    optimizer = torch.optim.SGD([each for each in model.parameters() if each.requires_grad], lr=0.1)
    loss.backward()
    optimizer.step()
    return {name: value for name, value in model.state_dict().items() if not torch.equal(value, before[name])}


@pytest.mark.parametrize("upsampler", UPSAMPLERS)
@pytest.mark.parametrize("backbone", [CNN, VIT], ids=["levels", "plain"])
def test_every_upsampler_trains_one_step(upsampler: str, backbone: Any) -> None:
    model = build(upsampler, backbone=backbone)
    changed = step(model)
    assert {"classifier.weight", "classifier.bias"} <= changed.keys()
    learned = {name for name, parameter in model.upsamplers.named_parameters() if parameter.grad is not None}
    assert learned == {name for name, _ in model.upsamplers.named_parameters()}


@pytest.mark.parametrize("info", [SEMANTIC, DEPTH], ids=["semantic", "depth"])
@pytest.mark.parametrize("backbone", [CNN, VIT, MIT], ids=["timm", "plain", "mit"])
def test_a_step_changes_nothing_of_the_backbone_not_even_statistics(info: DatasetInfo, backbone: Any) -> None:
    model = build(info=info, backbone=backbone)
    assert {name.split(".")[0] for name in step(model)} <= {"upsamplers", "classifier"}
    assert not any(module.training for module in model.backbone.modules())
    assert all(parameter.grad is None for parameter in model.backbone.parameters())
    assert complexity(model, (64, 96))["params_trainable"] == sum(
        parameter.numel() for part in (model.upsamplers, model.classifier) for parameter in part.parameters()
    )


@pytest.mark.parametrize(("size", "expected"), [("quarter", (19, 26)), ("full", (75, 101))])
@pytest.mark.parametrize("backbone", [CNN, VIT, MIT], ids=["timm", "plain", "mit"])
@pytest.mark.parametrize("upsampler", ["sapa", "bilinear"])
def test_outputs_have_the_size_at_odd_sizes(upsampler: str, backbone: Any, size: str, expected: Size) -> None:
    model = build(upsampler, backbone=backbone, size=size).eval()
    assert model.outputs(torch.randn(1, 3, 75, 101))["logits"].shape == (1, 5, *expected)


def test_the_guides_are_levels_and_where_there_are_none_the_image() -> None:
    model = build("sapa", size="full").eval()
    widths = [level.channels for level in model.backbone.feature_info]
    assert [upsampler.guide_channels for upsampler in model.upsamplers] == [*widths[2::-1], 3, 3]
    seen: list[Tensor] = []
    for upsampler in model.upsamplers:
        upsampler.register_forward_pre_hook(lambda _, __, named: seen.append(named["guide"]), with_kwargs=True)
    images = torch.randn(1, 3, 64, 64)
    model.outputs(images)
    torch.testing.assert_close(seen[:3], model.backbone(images)[2::-1])
    torch.testing.assert_close(seen[3], nn.functional.avg_pool2d(images, 2))
    assert torch.equal(seen[4], images)


def test_a_plain_transformer_is_probed_without_a_feature_pyramid() -> None:
    model = build(backbone=VIT)
    assert len(model.upsamplers) == 2
    assert not any("pyramid" in name for name in model.state_dict())


def test_the_classifier_is_linear_in_the_upsampled_features() -> None:
    model = build("bilinear").eval()
    images = torch.randn(1, 3, 64, 64)
    features = model.upsampled_features(images)
    expected = torch.einsum("bchw,kc->bkhw", features, model.classifier.weight[:, :, 0, 0])
    expected += model.classifier.bias[:, None, None]
    torch.testing.assert_close(model.outputs(images)["logits"], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", ["quarter", "full"])
def test_predictions_have_the_original_size(size: str) -> None:
    semantic = build(size=size).eval().predict(batch())
    assert [each.semantic.shape for each in semantic] == [(50, 70)] * 2
    depth = build(size=size, info=DEPTH).eval().predict(batch())
    assert [each.depth.shape for each in depth] == [(50, 70)] * 2
    assert all(0.001 <= each.depth.min() <= each.depth.max() <= 10 for each in depth)


def test_an_untrained_probe_predicts_a_quarter_of_the_largest_depth() -> None:
    depth = build(info=DEPTH, backbone=VIT).eval().outputs(torch.randn(1, 3, 64, 64))["depth"]
    torch.testing.assert_close(depth.mean(), torch.tensor(2.5), rtol=0.1, atol=0)


def test_data_of_other_tasks_are_refused() -> None:
    with pytest.raises(ValueError, match=r"probe needs a class or a depth for every pixel, but .* task detection"):
        build(info=DatasetInfo("detection", "any", tuple("ab")))
