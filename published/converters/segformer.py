"""SegFormer: the original release and later work on its code, mmsegmentation (backbone only), the Hugging Face hub."""

import json
import re
from dataclasses import dataclass
from typing import Any

import torch

from errors import UserError
from models.backbones.mit import SHAPES, MiT
from models.segformer.model import SegFormerConfig
from models.wrappers import with_prefix
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
    """A publisher's names for the modules of SegFormer, by our names. {s}: stage, from `first_stage`; {b}: block.

    prefixes: possible prefixes of the encoder's names. Several names for one of ours: their rows are concatenated.
    dropped: prefixes of names that our model does not use.
    """

    prefixes: tuple[str, ...]
    first_stage: int
    stage: dict[str, str]
    block: dict[str, tuple[str, ...]]
    head: dict[str, str]
    dropped: tuple[str, ...]


def _block(prefix: str, *names: str) -> dict[str, tuple[str, ...]]:
    """The published names of a block's modules, by our names. names: in the order of `ours`; a+b: rows of a, then b."""
    attention = (f"attention.{part}" for part in ("query", "key_value", "reduce", "reduce_norm", "project"))
    ours = ("attention_norm", *attention, "mlp_norm", "mlp.expand", "mlp.depthwise", "mlp.contract")
    published = (tuple(prefix + part for part in name.split("+")) for name in names)
    return dict(zip(ours, published, strict=True))


MLP_NAMES = ("mlp.dwconv.dwconv", "mlp.fc2")
HUB_ATTENTION = ("attention.self.query", "attention.self.key+attention.self.value", "attention.self.sr")
HUB_HEAD = {"fuse": "decode_head.linear_fuse", "norm": "decode_head.batch_norm", "classifier": "decode_head.classifier"}

SEGFORMER = Layout(
    prefixes=("backbone.", ""),
    first_stage=1,
    stage={"patch": "patch_embed{s}.proj", "patch_norm": "patch_embed{s}.norm", "norm": "norm{s}"},
    block=_block(
        *("block{s}.{b}.", "norm1", "attn.q", "attn.kv", "attn.sr", "attn.norm"),
        *("attn.proj", "norm2", "mlp.fc1", *MLP_NAMES),
    ),
    head={
        "embeds": "decode_head.linear_c{s}.proj",
        "fuse": "decode_head.linear_fuse.conv",
        "norm": "decode_head.linear_fuse.bn",
        "classifier": "decode_head.linear_pred",
    },
    dropped=("head.", "decode_head.conv_seg."),
)
HUB = Layout(
    prefixes=("segformer.encoder.", "encoder.", ""),
    first_stage=0,
    stage={
        "patch": "patch_embeddings.{s}.proj",
        "patch_norm": "patch_embeddings.{s}.layer_norm",
        "norm": "layer_norm.{s}",
    },
    block=_block(
        *("block.{s}.{b}.", "layer_norm_1", *HUB_ATTENTION, "attention.self.layer_norm"),
        *("attention.output.dense", "layer_norm_2", "mlp.dense1", "mlp.dwconv.dwconv", "mlp.dense2"),
    ),
    head={"embeds": "decode_head.linear_c.{s}.proj", **HUB_HEAD},
    dropped=("classifier.",),
)
TRANSFORMERS = Layout(
    prefixes=("segformer.", ""),
    first_stage=0,
    stage={
        "patch": "stages.{s}.patch_embeddings.proj",
        "patch_norm": "stages.{s}.patch_embeddings.layer_norm",
        "norm": "stages.{s}.layer_norm",
    },
    block=_block(
        *("stages.{s}.blocks.{b}.", "layernorm_before", "attention.q_proj", "attention.k_proj+attention.v_proj"),
        *("attention.sequence_reduction.sequence_reduction", "attention.sequence_reduction.layer_norm"),
        *("attention.o_proj", "layernorm_after", "mlp.fc1", *MLP_NAMES),
    ),
    head={"embeds": "decode_head.linear_projections.{s}.proj", **HUB_HEAD},
    dropped=("classifier.",),
)
MMSEG = Layout(
    prefixes=("backbone.", ""),
    first_stage=0,
    stage={"patch": "layers.{s}.0.projection", "patch_norm": "layers.{s}.0.norm", "norm": "layers.{s}.2"},
    block=_block(  # attn.q and attn.kv are made of in_proj by `_split_projections`
        *("layers.{s}.1.{b}.", "norm1", "attn.attn.q", "attn.attn.kv", "attn.sr", "attn.norm"),
        *("attn.attn.out_proj", "norm2", "ffn.layers.0", "ffn.layers.1", "ffn.layers.4"),
    ),
    head={},
    dropped=("decode_head.", "auxiliary_head.", "head."),
)


def convert(source: str, state: State, where: object) -> Converted:
    """Convert an encoder or a whole model. source: segformer, mmseg or huggingface."""
    layout = {"segformer": SEGFORMER, "mmseg": MMSEG, "huggingface": HUB}[source]
    if source == "huggingface" and any("stages.0." in name for name in state):
        layout = TRANSFORMERS
    if source == "mmseg":
        state = _split_projections(state)
    remaining = dict(state)
    backbone = _take_backbone(remaining, layout)
    shape = _shape(backbone)
    named = [name for name, known in SHAPES.items() if known == shape]
    if not named:
        what = f"holds no MiT-B0 to B5 by the names of {source}, but {list_names(list(state))}"
        raise UserError(where, what, "check --from")
    head, upsampler = _take_head(remaining, layout)
    dropped = [name for name in remaining if name.startswith(layout.dropped)]
    remark = check_leftovers(remaining, dropped, where)
    if source == "mmseg" and any(name.startswith("decode_head.") for name in dropped):
        remark = "backbone only: the head of mmseg is a different network"
    if not head:
        with torch.device("meta"):
            check_state(MiT(*SHAPES[named[0]]).state_dict(), backbone, where)
        return Converted(named[0], backbone, remark)
    model = {f"backbone.{name}": value for name, value in backbone.items()}
    model |= {f"head.{name}": value for name, value in head.items()}
    settings, num_classes = _describe(named[0], model, upsampler, where)
    remark = f"{num_classes} classes, upsampler {json.dumps(upsampler)}; {remark}"
    return Converted(f"segformer_{named[0]}", model, remark, settings, num_classes)


def _take_backbone(remaining: State, layout: Layout) -> State:
    """Move the tensors of the encoder out of `remaining`. Return them under our names."""
    patch = layout.stage["patch"].format(s=layout.first_stage)
    prefix = next((prefix for prefix in layout.prefixes if f"{prefix}{patch}.weight" in remaining), "")
    converted: State = {}
    for stage in range(4):
        for ours, published in layout.stage.items():
            move_module(
                remaining,
                (prefix + published.format(s=stage + layout.first_stage),),
                converted,
                f"stages.{stage}.{ours}",
            )
        for block in range(max(shape.depths[stage] for shape in SHAPES.values())):
            for ours, parts in layout.block.items():
                names = tuple(prefix + part.format(s=stage + layout.first_stage, b=block) for part in parts)
                move_module(remaining, names, converted, f"stages.{stage}.blocks.{block}.{ours}")
    for name in converted:
        if re.search(r"mlp\.(expand|contract)\.weight$", name):
            converted[name] = converted[name].flatten(1)  # some publishers have a 1x1 convolution here
    return converted


def _take_head(remaining: State, layout: Layout) -> tuple[State, Any]:
    """Move the tensors of the head, if any, out of `remaining`. Return them under our names, and the upsampler."""
    converted: State = {}
    for ours, published in layout.head.items():
        if ours == "embeds":
            for stage in range(4):
                move_module(remaining, (published.format(s=stage + layout.first_stage),), converted, f"embeds.{stage}")
        else:
            move_module(remaining, (published,), converted, ours)
    stages = [with_prefix(remaining, f"decode_head.upsamplers.{index}.") for index in range(6)]
    if "norm.weight" in converted and all(stages):
        found = recognise_upsampler(stages, len(converted["norm.weight"]))
        if found is not None:
            for name in with_prefix(remaining, "decode_head.upsamplers."):
                del remaining[f"decode_head.upsamplers.{name}"]
            return converted | {f"upsamplers.{name}": value for name, value in found[0].items()}, found[1]
    return converted, "bilinear"  # tensors of an unknown upsampler remain, and `check_leftovers` refuses them


def _shape(backbone: State) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The channels and the number of blocks of each stage."""
    patches = [backbone.get(f"stages.{stage}.patch.weight") for stage in range(4)]
    channels = tuple(0 if patch is None else len(patch) for patch in patches)
    blocks = [re.match(r"stages\.(\d)\.blocks\.(\d+)\.", name) for name in backbone]
    found = {(int(block[1]), int(block[2])) for block in blocks if block}
    return channels, tuple(sum(stage == block_stage for block_stage, _ in found) for stage in range(4))


def _describe(backbone: str, model: State, upsampler: Any, where: object) -> tuple[dict[str, Any], int]:
    """Return the settings and the number of classes. Raises UserError if a tensor of the model is missing."""
    classifier, norm = model.get("head.classifier.weight"), model.get("head.norm.weight")
    if classifier is None or norm is None:
        raise UserError(where, "has an incomplete head", "give the whole model, or its backbone alone")
    settings = {"name": "segformer", "backbone": backbone, "upsampler": upsampler, "channels": len(norm)}
    config = SegFormerConfig.model_validate(settings)
    info = DatasetInfo("semantic", "any", tuple(map(str, range(len(classifier)))))
    check_state(config.build(info).state_dict(), model, where)
    return settings, info.num_classes


def _split_projections(state: State) -> State:
    """Split the projections of queries, keys and values, which are one tensor in mmseg: rows q, k, v."""
    result: State = {}
    for name, value in state.items():
        found = re.fullmatch(r"(.+\.attn\.attn\.)in_proj_(weight|bias)", name)
        if found:
            rows = len(value) // 3
            result |= {f"{found[1]}q.{found[2]}": value[:rows], f"{found[1]}kv.{found[2]}": value[rows:]}
        else:
            result[name] = value
    return result
