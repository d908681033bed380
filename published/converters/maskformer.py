"""MaskFormer: the original release and later work on its code, and the Hugging Face hub."""

import json
import re
from dataclasses import dataclass
from typing import Any

import torch

from errors import UserError
from models.maskformer.model import MaskFormerConfig
from models.wrappers import with_prefix
from published.converters import swin
from published.converters.resnet import extract_resnet, is_batch_counter
from published.converters.swin import BUFFERS, extract_swin
from published.converters.tensors import (
    Converted,
    State,
    check_leftovers,
    list_names,
    move_module,
    recognise_upsampler,
)
from storage import check_state
from structures import DatasetInfo


@dataclass(frozen=True)
class Layout:
    """A publisher's names for the modules of a MaskFormer, by our names. {i}: counted from 0, {j}: from 1, {k}: 2 - i.

    backbone: prefix and layout of a Swin; names of a ResNet are first changed to those of torchvision. layers, encoder:
    prefixes of the layers of the transformer decoder and encoder (None: there is no encoder). attention: the two
    attentions of a layer. inputs, output: their projections of queries, keys and values, and of the result. upsamplers:
    prefix of the upsampler to level i; only later work on this code has them. dropped: prefixes of unused names.
    """

    backbone: tuple[str, swin.Layout]
    modules: dict[str, tuple[str, ...]]
    layers: str
    encoder: str | None
    attention: dict[str, str]
    inputs: tuple[str, ...]
    output: tuple[str, ...]
    upsamplers: str
    dropped: tuple[str, ...]


RELEASE = Layout(
    backbone=("backbone.", swin.ORIGINAL),
    modules={
        "pixel_decoder.enter.conv": ("sem_seg_head.pixel_decoder.layer_4",),
        "pixel_decoder.enter.norm": ("sem_seg_head.pixel_decoder.layer_4.norm",),
        "pixel_decoder.laterals.{i}.conv": ("sem_seg_head.pixel_decoder.adapter_{j}",),
        "pixel_decoder.laterals.{i}.norm": ("sem_seg_head.pixel_decoder.adapter_{j}.norm",),
        "pixel_decoder.outputs.{i}.conv": ("sem_seg_head.pixel_decoder.layer_{j}",),
        "pixel_decoder.outputs.{i}.norm": ("sem_seg_head.pixel_decoder.layer_{j}.norm",),
        "pixel_decoder.mask_features": ("sem_seg_head.pixel_decoder.mask_features",),
        "encoder.enter": ("sem_seg_head.pixel_decoder.input_proj",),
        "encoder.layers.{i}.expand": ("sem_seg_head.pixel_decoder.transformer.encoder.layers.{i}.linear1",),
        "encoder.layers.{i}.contract": ("sem_seg_head.pixel_decoder.transformer.encoder.layers.{i}.linear2",),
        "encoder.layers.{i}.norms.0": ("sem_seg_head.pixel_decoder.transformer.encoder.layers.{i}.norm1",),
        "encoder.layers.{i}.norms.1": ("sem_seg_head.pixel_decoder.transformer.encoder.layers.{i}.norm2",),
        "transformer.enter": ("sem_seg_head.predictor.input_proj",),
        "transformer.queries": ("sem_seg_head.predictor.query_embed",),
        "transformer.layers.{i}.expand": ("sem_seg_head.predictor.transformer.decoder.layers.{i}.linear1",),
        "transformer.layers.{i}.contract": ("sem_seg_head.predictor.transformer.decoder.layers.{i}.linear2",),
        "transformer.layers.{i}.norms.0": ("sem_seg_head.predictor.transformer.decoder.layers.{i}.norm1",),
        "transformer.layers.{i}.norms.1": ("sem_seg_head.predictor.transformer.decoder.layers.{i}.norm2",),
        "transformer.layers.{i}.norms.2": ("sem_seg_head.predictor.transformer.decoder.layers.{i}.norm3",),
        "transformer.norm": ("sem_seg_head.predictor.transformer.decoder.norm",),
        "classifier": ("sem_seg_head.predictor.class_embed",),
        "mask_embedding.{i}": ("sem_seg_head.predictor.mask_embed.layers.{i}",),
    },
    layers="sem_seg_head.predictor.transformer.decoder.layers.{i}.",
    encoder="sem_seg_head.pixel_decoder.transformer.encoder.layers.{i}.",
    attention={"among": "self_attn", "across": "multihead_attn"},
    inputs=(),
    output=("out_proj",),
    upsamplers="sem_seg_head.pixel_decoder.upsamplers.{i}.",
    dropped=("criterion.",),
)
HUB = Layout(
    backbone=("backbone.", swin.HUB),
    modules={
        "pixel_decoder.enter.conv": ("model.pixel_level_module.decoder.fpn.stem.0",),
        "pixel_decoder.enter.norm": ("model.pixel_level_module.decoder.fpn.stem.1",),
        "pixel_decoder.laterals.{i}.conv": ("model.pixel_level_module.decoder.fpn.layers.{k}.proj.0",),
        "pixel_decoder.laterals.{i}.norm": ("model.pixel_level_module.decoder.fpn.layers.{k}.proj.1",),
        "pixel_decoder.outputs.{i}.conv": ("model.pixel_level_module.decoder.fpn.layers.{k}.block.0",),
        "pixel_decoder.outputs.{i}.norm": ("model.pixel_level_module.decoder.fpn.layers.{k}.block.1",),
        "pixel_decoder.mask_features": ("model.pixel_level_module.decoder.mask_projection",),
        "transformer.enter": ("model.transformer_module.input_projection",),
        "transformer.queries": ("model.transformer_module.queries_embedder",),
        "transformer.layers.{i}.expand": (
            "model.transformer_module.decoder.layers.{i}.mlp.fc1",
            "model.transformer_module.decoder.layers.{i}.fc1",
        ),
        "transformer.layers.{i}.contract": (
            "model.transformer_module.decoder.layers.{i}.mlp.fc2",
            "model.transformer_module.decoder.layers.{i}.fc2",
        ),
        "transformer.layers.{i}.norms.0": ("model.transformer_module.decoder.layers.{i}.self_attn_layer_norm",),
        "transformer.layers.{i}.norms.1": ("model.transformer_module.decoder.layers.{i}.encoder_attn_layer_norm",),
        "transformer.layers.{i}.norms.2": ("model.transformer_module.decoder.layers.{i}.final_layer_norm",),
        "transformer.norm": ("model.transformer_module.decoder.layernorm",),
        "classifier": ("class_predictor",),
        "mask_embedding.{i}": ("mask_embedder.{i}.0",),
    },
    layers="model.transformer_module.decoder.layers.{i}.",
    encoder=None,
    attention={"among": "self_attn", "across": "encoder_attn"},
    inputs=("q_proj", "k_proj", "v_proj"),
    output=("o_proj", "out_proj"),
    upsamplers="model.pixel_level_module.decoder.upsamplers.{i}.",
    dropped=("criterion.", "backbone.layernorm."),
)
# Hub files hold the Swin and the norms of its levels under different prefixes.
HUB_BACKBONE = {
    "model.pixel_level_module.encoder.model.encoder.": "backbone.",
    "model.pixel_level_module.encoder.model.": "backbone.",
    "model.pixel_level_module.encoder.hidden_states_norms.": "backbone.norm",
}
MAX_LAYERS = 12


def is_hub(state: State) -> bool:
    """Whether these are the tensors of a MaskFormer of the Hugging Face hub."""
    return any(name.startswith("model.pixel_level_module.") for name in state)


def convert_release(state: State, where: object) -> Converted:
    """Convert a whole model with the names of the original release."""
    resnet = re.compile(r"backbone\.(?:stem|res(\d)\.(\d+))\.(?:conv(\d)|(shortcut))\.(norm\.)?(\w+)")
    remaining = {}
    for name, value in state.items():
        if found := resnet.fullmatch(name):
            stage, block, conv, shortcut, norm, tensor = found.groups()
            part = f"layer{int(stage) - 1}.{block}." if stage else ""
            name = f"backbone.{part}{_torchvision(conv or '', bool(shortcut), bool(norm))}.{tensor}"
        remaining[name] = value
    return _convert(remaining, RELEASE, where)


def convert_hub(state: State, where: object) -> Converted:
    """Convert a whole model with the names of the Hugging Face hub."""
    start = r"model\.pixel_level_module\.encoder\."
    module = r"(?:embedder\.embedder|encoder\.stages\.(\d)\.layers\.(\d+)\.(?:layer\.(\d)|(shortcut)))"
    resnet = re.compile(start + module + r"\.(?:convolution|(normalization))\.(\w+)")
    remaining = {}
    for name, value in state.items():
        if found := resnet.fullmatch(name):
            stage, block, conv, shortcut, norm, tensor = found.groups()
            part = f"layer{int(stage) + 1}.{block}." if stage else ""
            name = f"backbone.{part}{_torchvision(str(int(conv or 0) + 1), bool(shortcut), bool(norm))}.{tensor}"
        else:
            prefix = next((prefix for prefix in HUB_BACKBONE if name.startswith(prefix)), "")
            name = HUB_BACKBONE.get(prefix, "") + name.removeprefix(prefix)
        remaining[name] = value
    return _convert(remaining, HUB, where)


def _torchvision(number: str, shortcut: bool, norm: bool) -> str:
    """The name of a module in a block of a ResNet, in torchvision and in our models."""
    if shortcut:
        return f"downsample.{int(norm)}"
    return f"{'bn' if norm else 'conv'}{number}"


def _convert(remaining: State, layout: Layout, where: object) -> Converted:
    prefix, names = layout.backbone
    backbone: dict[str, Any]
    if f"{prefix}layer1.0.conv1.weight" in remaining:
        name, converted = extract_resnet(remaining, prefix, where)
        backbone = {"name": name}
    else:
        backbone, converted = extract_swin(remaining, prefix, names, where)
    model = {f"backbone.{name}": value for name, value in converted.items()}
    for ours, published in layout.modules.items():
        for i in range(MAX_LAYERS if "{i}" in ours else 1):
            for name in published:
                move_module(remaining, (name.format(i=i, j=i + 1, k=2 - i),), model, ours.format(i=i))
    for i in range(MAX_LAYERS):
        for ours, name in layout.attention.items():
            _take_attention(
                remaining, layout, layout.layers.format(i=i) + name, model, f"transformer.layers.{i}.{ours}"
            )
        if layout.encoder:
            _take_attention(
                remaining, layout, layout.encoder.format(i=i) + "self_attn", model, f"encoder.layers.{i}.among"
            )
    if "classifier.weight" not in model or "transformer.queries.weight" not in model:
        raise UserError(where, f"holds no MaskFormer, but {list_names(list(remaining | model))}", "check --from")
    layers, encoder_layers = (
        sum(name.startswith(f"{part}.") and name.endswith(".expand.weight") for name in model)
        for part in ("transformer", "encoder")
    )
    hidden = len(model.get("transformer.layers.0.expand.weight", ()))
    queries, channels = model["transformer.queries.weight"].shape
    options: dict[str, Any] = {"name": "maskformer", "backbone": backbone, "upsampler": "nearest"}
    options |= {"channels": channels, "queries": queries, "layers": layers, "hidden": hidden}
    if encoder_layers:
        options["encoder_layers"] = encoder_layers
    prefixes = [layout.upsamplers.format(i=i) for i in range(3)]
    stages = [with_prefix(remaining, prefix) for prefix in prefixes]
    if all(stages) and (found := recognise_upsampler(stages, channels)):
        options["upsampler"] = found[1]
        model |= {f"pixel_decoder.upsamplers.{name}": value for name, value in found[0].items()}
        for upsampler_prefix, stage in zip(prefixes, stages, strict=True):
            for name in stage:
                del remaining[upsampler_prefix + name]
    dropped = [
        name
        for name in remaining
        if name.endswith(BUFFERS) or name.startswith(layout.dropped) or is_batch_counter(name)
    ]
    remark = check_leftovers(remaining, dropped, where)
    classes = tuple(map(str, range(len(model["classifier.weight"]) - 1)))
    with torch.device("meta"):
        record = MaskFormerConfig.model_validate(options)
        check_state(record.build(DatasetInfo("semantic", "any", classes)).state_dict(), model, where)
    kind = f"maskformer_{backbone['name']}"
    remark = f"{len(classes)} classes, model: {json.dumps(options)}; {remark}"
    return Converted(kind, model, remark, options, len(classes))


def _take_attention(remaining: State, layout: Layout, name: str, model: State, ours: str) -> None:
    """Move the tensors of an attention. Its projections of queries, keys and values become one tensor."""
    for output in layout.output:
        move_module(remaining, (f"{name}.{output}",), model, f"{ours}.out_proj")
    if layout.inputs:
        converted: State = {}
        move_module(remaining, tuple(f"{name}.{part}" for part in layout.inputs), converted, "in_proj")
        model |= {f"{ours}.in_proj_{key.removeprefix('in_proj.')}": value for key, value in converted.items()}
        return
    for key in ("in_proj_weight", "in_proj_bias"):
        if f"{name}.{key}" in remaining:
            model[f"{ours}.{key}"] = remaining.pop(f"{name}.{key}")
