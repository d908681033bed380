"""Published MaskFormers: ours under their names, and back."""

import json
import os
import pickle
import re
from pathlib import Path

import pytest
import torch

from errors import UserError
from models.maskformer.model import MaskFormer, MaskFormerConfig
from published.converters.reading import read_published
from published.converters.sources import convert
from published.converters.tensors import State
from structures import DatasetInfo
from tests.published.converters.renaming import renamed
from upsamplers import build_upsampler

INFO = DatasetInfo("semantic", "any", tuple("abc"))
RELEASE = [
    (r"^pixel_decoder\.enter\.conv", "sem_seg_head.pixel_decoder.layer_4"),
    (r"^pixel_decoder\.enter\.norm", "sem_seg_head.pixel_decoder.layer_4.norm"),
    (r"^pixel_decoder\.laterals\.(\d)\.conv", lambda found: f"sem_seg_head.pixel_decoder.adapter_{int(found[1]) + 1}"),
    (
        r"^pixel_decoder\.laterals\.(\d)\.norm",
        lambda found: f"sem_seg_head.pixel_decoder.adapter_{int(found[1]) + 1}.norm",
    ),
    (r"^pixel_decoder\.outputs\.(\d)\.conv", lambda found: f"sem_seg_head.pixel_decoder.layer_{int(found[1]) + 1}"),
    (
        r"^pixel_decoder\.outputs\.(\d)\.norm",
        lambda found: f"sem_seg_head.pixel_decoder.layer_{int(found[1]) + 1}.norm",
    ),
    (r"^pixel_decoder\.mask", "sem_seg_head.pixel_decoder.mask"),
    (r"^transformer\.enter", "sem_seg_head.predictor.input_proj"),
    (r"^transformer\.queries", "sem_seg_head.predictor.query_embed"),
    (r"^transformer\.norm", "sem_seg_head.predictor.transformer.decoder.norm"),
    (r"^transformer\.layers", "sem_seg_head.predictor.transformer.decoder.layers"),
    (r"\.among\.", ".self_attn."),
    (r"\.across\.", ".multihead_attn."),
    (r"\.expand\.", ".linear1."),
    (r"\.contract\.", ".linear2."),
    (r"decoder\.layers\.(\d)\.norms\.(\d)", lambda found: f"decoder.layers.{found[1]}.norm{int(found[2]) + 1}"),
    (r"^classifier", "sem_seg_head.predictor.class_embed"),
    (r"^mask_embedding", "sem_seg_head.predictor.mask_embed.layers"),
    (r"^backbone\.patch\.", "backbone.patch_embed.proj."),
    (r"^backbone\.patch_norm", "backbone.patch_embed.norm"),
    (r"^backbone\.norms\.", "backbone.norm"),
    (r"^backbone\.merges\.(\d)\.norm", r"backbone.layers.\1.downsample.norm"),
    (r"^backbone\.merges\.(\d)\.reduce", r"backbone.layers.\1.downsample.reduction"),
    (r"^backbone\.stages\.(\d)\.(\d+)", r"backbone.layers.\1.blocks.\2"),
    (r"attention_norm", "norm1"),
    (r"mlp_norm", "norm2"),
    (r"attention\.position_bias", "attn.relative_position_bias_table"),
    (r"attention\.qkv", "attn.qkv"),
    (r"attention\.project", "attn.proj"),
    (r"(blocks\.\d+\.mlp)\.linear1", r"\1.fc1"),
    (r"(blocks\.\d+\.mlp)\.linear2", r"\1.fc2"),
]
START = "model.pixel_level_module."
HUB = [
    (r"^pixel_decoder\.enter\.conv", f"{START}decoder.fpn.stem.0"),
    (r"^pixel_decoder\.enter\.norm", f"{START}decoder.fpn.stem.1"),
    (r"^pixel_decoder\.laterals\.(\d)\.conv", lambda found: f"{START}decoder.fpn.layers.{2 - int(found[1])}.proj.0"),
    (r"^pixel_decoder\.laterals\.(\d)\.norm", lambda found: f"{START}decoder.fpn.layers.{2 - int(found[1])}.proj.1"),
    (r"^pixel_decoder\.outputs\.(\d)\.conv", lambda found: f"{START}decoder.fpn.layers.{2 - int(found[1])}.block.0"),
    (r"^pixel_decoder\.outputs\.(\d)\.norm", lambda found: f"{START}decoder.fpn.layers.{2 - int(found[1])}.block.1"),
    (r"^pixel_decoder\.mask_features", f"{START}decoder.mask_projection"),
    (r"^transformer\.enter", "model.transformer_module.input_projection"),
    (r"^transformer\.queries", "model.transformer_module.queries_embedder"),
    (r"^transformer\.norm", "model.transformer_module.decoder.layernorm"),
    (r"^transformer\.layers", "model.transformer_module.decoder.layers"),
    (r"\.among\.", ".self_attn."),
    (r"\.across\.", ".encoder_attn."),
    (r"(layers\.\d)\.expand\.", r"\1.mlp.fc1."),
    (r"(layers\.\d)\.contract\.", r"\1.mlp.fc2."),
    (r"norms\.0", "self_attn_layer_norm"),
    (r"(decoder\.layers\.\d\.)norms\.1", r"\1encoder_attn_layer_norm"),
    (r"(decoder\.layers\.\d\.)norms\.2", r"\1final_layer_norm"),
    (r"^classifier", "class_predictor"),
    (r"^mask_embedding\.(\d)", r"mask_embedder.\1.0"),
    (r"^backbone\.patch\.", f"{START}encoder.model.embeddings.patch_embeddings.projection."),
    (r"^backbone\.patch_norm", f"{START}encoder.model.embeddings.norm"),
    (
        r"^backbone\.(?:norms\.(\d)|self_attn_layer_norm)",
        lambda found: f"{START}encoder.hidden_states_norms.{found[1] or 0}",
    ),
    (r"^backbone\.merges\.(\d)\.norm", rf"{START}encoder.model.encoder.layers.\1.downsample.norm"),
    (r"^backbone\.merges\.(\d)\.reduce", rf"{START}encoder.model.encoder.layers.\1.downsample.reduction"),
    (r"^backbone\.stages\.(\d)\.(\d+)", rf"{START}encoder.model.encoder.layers.\1.blocks.\2"),
    (r"attention_norm", "layernorm_before"),
    (r"mlp_norm", "layernorm_after"),
    (r"attention\.position_bias", "attention.self.relative_position_bias_table"),
    (r"(blocks\.\d+)\.attention\.project", r"\1.attention.output.dense"),
    (r"(blocks\.\d+)\.mlp\.expand", r"\1.intermediate.dense"),
    (r"(blocks\.\d+)\.mlp\.contract", r"\1.output.dense"),
    (r"out_proj", "o_proj"),
]


def model(upsampler: str = "nearest", backbone: str = "swin_t", **extra: int) -> MaskFormer:
    torch.manual_seed(0)
    options = {"backbone": backbone, "upsampler": upsampler, "queries": 5, "layers": 2, "hidden": 48, "channels": 64}
    options |= extra
    return MaskFormerConfig.model_validate(options).build(INFO)


def apart(state: State, name: str, parts: list[str]) -> State:
    """The tensors of which `name` is a part of the name, cut into equal rows under other names."""
    result = {}
    for key, value in state.items():
        pieces = value.chunk(len(parts)) if name in key else [value]
        result |= {key.replace(name, part): piece for part, piece in zip(parts, pieces, strict=False)}
    return result


def published(source: str, ours: State) -> State:
    if source == "maskformer":
        extra = {
            "criterion.empty_weight": torch.ones(4),
            "backbone.layers.0.blocks.0.attn.relative_position_index": torch.ones(1),
        }
        return renamed(ours, *RELEASE) | extra
    state = renamed(ours, *HUB)
    state = apart(state, "attention.qkv", [f"attention.self.{part}" for part in ("query", "key", "value")])
    for kind in ("weight", "bias"):
        state = apart(state, f"in_proj_{kind}", [f"{part}_proj.{kind}" for part in "qkv"])
    return state | {f"{START}encoder.model.layernorm.weight": torch.ones(768), "criterion.empty_weight": torch.ones(4)}


@pytest.mark.parametrize("source", ["maskformer", "huggingface"])
def test_every_tensor_arrives_at_its_place(source: str) -> None:
    ours = model().state_dict()
    kind, tensors, remark, *_ = convert(source, published(source, ours), "test")
    assert kind == "maskformer_swin_t"
    assert remark.startswith("3 classes, ")
    options = json.loads(re.search(r"model: (\{.*\});", remark)[1])
    assert options["backbone"] == {"name": "swin_t"}
    assert [options[key] for key in ("upsampler", "channels", "queries", "layers", "hidden")] == [
        "nearest",
        64,
        5,
        2,
        48,
    ]
    assert tensors.keys() == ours.keys()
    for name, value in ours.items():
        assert torch.equal(tensors[name], value), name


RELEASED_RESNET = [
    (r"^encoder\.enter", "sem_seg_head.pixel_decoder.input_proj"),
    (r"^encoder\.layers\.(\d)\.norms\.0", r"sem_seg_head.pixel_decoder.transformer.encoder.layers.\1.norm1"),
    (r"^encoder\.layers\.(\d)\.norms\.1", r"sem_seg_head.pixel_decoder.transformer.encoder.layers.\1.norm2"),
    (r"^encoder\.layers", "sem_seg_head.pixel_decoder.transformer.encoder.layers"),
    (r"^backbone\.conv1", "backbone.stem.conv1"),
    (r"^backbone\.bn1", "backbone.stem.conv1.norm"),
    (r"^backbone\.layer(\d)\.", lambda found: f"backbone.res{int(found[1]) + 1}."),
    (r"(res\d\.\d+)\.bn(\d)", r"\1.conv\2.norm"),
    (r"downsample\.0", "shortcut"),
    (r"downsample\.1", "shortcut.norm"),
]
HUB_RESNET = [
    (r"^backbone\.conv1", f"{START}encoder.embedder.embedder.convolution"),
    (r"^backbone\.bn1", f"{START}encoder.embedder.embedder.normalization"),
    (
        r"^backbone\.layer(\d)\.(\d+)\.",
        lambda found: f"{START}encoder.encoder.stages.{int(found[1]) - 1}.layers.{found[2]}.",
    ),
    (r"(encoder\.stages.*)conv(\d)", lambda found: f"{found[1]}layer.{int(found[2]) - 1}.convolution"),
    (r"(encoder\.stages.*)bn(\d)", lambda found: f"{found[1]}layer.{int(found[2]) - 1}.normalization"),
    (r"downsample\.0", "shortcut.convolution"),
    (r"downsample\.1", "shortcut.normalization"),
]


@pytest.mark.parametrize(("source", "encoder_layers"), [("maskformer", 2), ("maskformer", 0), ("huggingface", 0)])
def test_those_on_a_resnet_arrive_too(source: str, encoder_layers: int) -> None:
    ours = model(backbone="resnet50", encoder_layers=encoder_layers).state_dict()
    state = published(source, renamed(ours, *(RELEASED_RESNET if source == "maskformer" else HUB_RESNET)))
    kind, tensors, remark, *_ = convert(source, state, "test")
    assert kind == "maskformer_resnet50"
    assert ("encoder_layers" in remark) == bool(encoder_layers)
    assert tensors.keys() == ours.keys()
    for name, value in ours.items():
        assert torch.equal(tensors[name], value), name


def test_the_release_comes_as_a_pickle_of_arrays(tmp_path: Path) -> None:
    state = published("maskformer", model().state_dict())
    path = tmp_path / "model_final.pkl"
    arrays = {"model": {name: value.numpy() for name, value in state.items()}, "__author__": "third_party"}
    path.write_bytes(pickle.dumps(arrays))
    found, _ = read_published(path)
    assert found.keys() == state.keys()
    assert all(torch.equal(found[name], value) for name, value in state.items())
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match="not a pickle of arrays only"):
        read_published(path)


def test_pickles_that_call_anything_else_are_refused_unread(tmp_path: Path) -> None:
    canary = tmp_path / "canary"

    class Gadget:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(canary),)

    path = tmp_path / "evil.pkl"
    path.write_bytes(pickle.dumps({"model": {"weight": Gadget()}}))
    with pytest.raises(UserError, match=r"evil.pkl: is not a pickle of arrays only \(it calls posix.mkdir\)"):
        read_published(path)
    assert not canary.exists()


def test_upsamplers_are_recognised() -> None:
    torch.manual_seed(1)
    stages = torch.nn.ModuleList(build_upsampler("dysample-s+", 64) for _ in range(3)).state_dict()
    state = published("maskformer", model().state_dict())
    state |= {f"sem_seg_head.pixel_decoder.upsamplers.{name}": value for name, value in stages.items()}
    _, tensors, remark, *_ = convert("maskformer", state, "test")
    assert '"upsampler": "dysample-s+"' in remark
    for name, value in stages.items():
        assert torch.equal(tensors[f"pixel_decoder.upsamplers.{name}"], value), name


@pytest.mark.parametrize("source", ["maskformer", "huggingface"])
def test_what_is_missing_or_left_over_is_named(source: str) -> None:
    state = published(source, model().state_dict())
    with pytest.raises(UserError, match=r"1 unknown tensors \(extra.weight\)"):
        convert(source, {**state, "extra.weight": torch.zeros(1)}, "file.pth")
    lost = next(name for name in state if "mask_embed" in name)
    with pytest.raises(UserError, match=r"missing \(mask_embedding\.0\.weight"):
        convert(source, {name: value for name, value in state.items() if name != lost}, "file.pth")
