"""Published Swins and DepthFormers, against timm and against a second network over the published names."""

import json
import re
import sys
from pathlib import Path

import pytest
import timm
import torch
from reference_depthformer import State, depthformer, toolbox_state
from torch import Tensor
from torch.nn import functional as F

from errors import UserError
from models.backbones.swin import SwinConfig
from models.depthformer.model import DepthFormerConfig
from models.weights import load_state
from published.converters.sources import convert
from structures import Batch, DatasetInfo, Target
from tests.published.converters.renaming import renamed
from tools.convert_weights.__main__ import main

NYU = DatasetInfo("depth", "nyu", max_depth=10.0)


@pytest.fixture(scope="module")
def toolbox() -> State:
    return toolbox_state()


def order_of_unfold(channels: int) -> Tensor:
    """Where the numbers of four merged pixels, pixel by pixel, column by column, stand when they are unfolded."""
    places = torch.arange(4.0 * channels).view(2, 2, channels)  # column, row, channel
    return F.unfold(places.permute(2, 1, 0)[None], 2)[0, :, 0].long()


def official(toolbox: State) -> State:
    """The backbone as the original release has it: an ImageNet classifier."""
    state = {name: value for name, value in toolbox.items() if re.match(r"backbone\.(patch|stages)", name)}
    for name, value in state.items():
        if "downsample" in name:
            state[name] = torch.empty_like(value)
            state[name][..., order_of_unfold(value.shape[-1] // 4)] = value
    state = renamed(
        state,
        (r"backbone\.", ""),
        (r"projection", "proj"),
        (r"stages", "layers"),
        (r"w_msa\.", ""),
        (r"ffn\.layers\.0\.0", "mlp.fc1"),
        (r"ffn\.layers\.1", "mlp.fc2"),
    )
    ends = {"norm.weight": torch.ones(768), "head.weight": torch.zeros(1000, 768), "head.bias": torch.zeros(1000)}
    return state | ends | {"layers.0.blocks.1.attn_mask": torch.zeros(64, 49, 49)}


def to_timm(official: State) -> State:
    state = {name: value for name, value in official.items() if not name.endswith(("index", "mask"))}
    return renamed(
        state,
        (r"^layers\.(\d)\.downsample", lambda found: f"layers.{int(found[1]) + 1}.downsample"),
        (r"^head\.", "head.fc."),
    )


def predicted(model: torch.nn.Module, images: Tensor) -> Tensor:
    size = tuple(images.shape[-2:])
    batch = Batch(images, [size] * len(images), [Target(str(index), size) for index in range(len(images))])
    return torch.stack([prediction.depth for prediction in model.predict(batch)])


def test_a_converted_depthformer_gives_the_depth_of_an_independent_one(
    toolbox: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save({"meta": {"iter": 38400}, "state_dict": toolbox}, tmp_path / "in.pth")
    words = ["convert_weights", "--from", "depthformer", str(tmp_path / "in.pth"), str(tmp_path / "out.pt")]
    monkeypatch.setattr(sys, "argv", words)
    main()
    content = torch.load(tmp_path / "out.pt", weights_only=True)
    assert (content["format"], content["kind"]) == ("denseup-weights", "depthformer_swin_t")
    remark = convert("depthformer", toolbox, "test").remark
    options = json.loads(re.search(r"model: (\{.*\});", remark)[1])
    assert options["upsampler"] == {"name": "bilinear", "align_corners": True}
    model = DepthFormerConfig.model_validate({**options, "weights": tmp_path / "out.pt", "flip_test": False}).build(NYU)
    torch.manual_seed(0)
    images = torch.randn(2, 3, 64, 96)
    half = depthformer(toolbox, images)
    assert half.std() > 1  # metres
    assert half.min() == 0.001
    assert half.max() > 10
    with torch.no_grad():
        found = model.eval().outputs(images)["depth"]
    whole = F.interpolate(half, size=(64, 96), mode="bilinear", align_corners=True)
    torch.testing.assert_close(found, whole, rtol=1e-3, atol=1e-3)
    clamped = F.interpolate(half.clamp(0.001, 10), size=(64, 96), mode="bilinear", align_corners=True)
    torch.testing.assert_close(predicted(model, images), clamped[:, 0], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("size", [(50, 66), (35, 97)])
def test_the_network_equals_the_toolbox_at_sizes_that_32_does_not_divide(size: tuple[int, int], toolbox: State) -> None:
    options = {"upsampler": {"name": "bilinear", "align_corners": True}, "flip_test": False, "size_divisor": 1}
    model = DepthFormerConfig.model_validate(options).build(NYU).eval()
    load_state(model, convert("depthformer", toolbox, "test").model, "here")
    assert model.size_divisor == 1
    torch.manual_seed(0)
    images = torch.randn(1, 3, *size)
    whole = F.interpolate(depthformer(toolbox, images), size=size, mode="bilinear", align_corners=True)
    with torch.no_grad():
        torch.testing.assert_close(model.outputs(images)["depth"], whole, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("source", ["swin", "timm"])
def test_every_layout_of_a_backbone_gives_the_same_tensors(source: str, toolbox: State) -> None:
    state = official(toolbox) if source == "swin" else to_timm(official(toolbox))
    kind, tensors, remark, *_ = convert(source, state, "test")
    assert kind == "swin_t"
    assert '{"name": "swin_t"}' in remark
    expected = convert("depthformer", toolbox, "test").model
    expected = {name.removeprefix("backbone."): value for name, value in expected.items() if name.startswith("back")}
    assert tensors.keys() == expected.keys()
    for name, value in expected.items():
        if name.startswith("norms."):  # which a classifier does not have
            assert torch.equal(tensors[name], torch.full_like(value, float(name.endswith("weight"))))
        else:
            assert torch.equal(tensors[name], value), name


def test_a_classifier_of_timm_converts_and_gives_timms_levels(tmp_path: Path) -> None:
    torch.manual_seed(0)
    theirs = timm.create_model("swin_tiny_patch4_window7_224", always_partition=True).eval()
    kind, tensors, *_ = convert("timm", theirs.state_dict(), "test")
    torch.save({"kind": kind, "model": tensors}, tmp_path / "out.pt")
    ours = SwinConfig(name="swin_t", weights=tmp_path / "out.pt").build().eval()
    images = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        expected = theirs.forward_intermediates(images, indices=4, intermediates_only=True)
        for level, reference in zip(ours(images), expected, strict=True):
            normed = F.layer_norm(reference.movedim(1, -1), reference.shape[1:2])
            torch.testing.assert_close(level.movedim(1, -1), normed, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("name", "window"), [("swin_b", 12), ("swin_l", 7)])
def test_sizes_and_windows_are_recognised(name: str, window: int) -> None:
    config = SwinConfig(name=name, window=window)
    with torch.device("meta"):
        own = config.build().state_dict()
    names = renamed(
        own,
        (r"^patch", "patch_embed.proj"),
        (r"proj_norm", "norm"),
        (r"^stages\.(\d)\.", r"layers.\1.blocks."),
        (r"^merges\.(\d)\.reduce", r"layers.\1.downsample.reduction"),
        (r"^merges\.(\d)\.norm", r"layers.\1.downsample.norm"),
        (r"^norms\.", "head."),
        (r"attention_norm", "norm1"),
        (r"mlp_norm", "norm2"),
        (r"attention\.qkv", "attn.qkv"),
        (r"attention\.project", "attn.proj"),
        (r"attention\.position_bias", "attn.relative_position_bias_table"),
        (r"mlp\.expand", "mlp.fc1"),
        (r"mlp\.contract", "mlp.fc2"),
    )
    kind, tensors, remark, *_ = convert("swin", names, "test")
    assert kind == name
    assert tensors.keys() == own.keys()
    backbone = json.loads(re.search(r"model\.backbone: (\{.*?\});", remark)[1])
    assert SwinConfig.model_validate(backbone) == SwinConfig(name=name, window=None if window == 12 else window)


def refusal(source: str, state: State) -> str:
    with pytest.raises(UserError) as caught:
        convert(source, state, "file.pth")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def without(state: State, part: str) -> State:
    return {name: value for name, value in state.items() if part not in name}


def test_what_does_not_belong_or_is_missing_is_named(toolbox: State) -> None:
    swin = official(toolbox)
    assert "file.pth: holds no Swin-T, S, B or L, but a.weight; check --from" in refusal(
        "swin", {"a.weight": torch.zeros(1)}
    )
    assert "unknown tensors (absolute_pos_embed)" in refusal("swin", swin | {"absolute_pos_embed": torch.zeros(1)})
    assert "1 tensors missing (stages.1.1.mlp.contract.bias)" in refusal(
        "swin", without(swin, "layers.1.blocks.1.mlp.fc2.bias")
    )
    assert "holds no Swin" in refusal("timm", without(swin, "layers.2.blocks.3"))
    assert "holds no Swin" in refusal("swin", toolbox)
    assert "holds no DepthFormer" in refusal("depthformer", without(toolbox, "neck."))
    assert "2 tensors missing (decoder.fusions.1.2.weight" in refusal(
        "depthformer", without(toolbox, "conv_list.2.convB")
    )
    upsampler = {"decode_head.conv_list.1.upsample.weight": torch.zeros(1)}
    assert "1 unknown tensors (decode_head.conv_list.1.upsample.weight)" in refusal("depthformer", toolbox | upsampler)
