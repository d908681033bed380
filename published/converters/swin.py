"""Swin Transformers: ImageNet classifiers of the original release and of timm, and backbones of other networks."""

import json
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from errors import UserError
from models.backbones.swin import SHAPES, SwinConfig
from published.converters.tensors import Converted, State, check_leftovers, list_names, move_module
from storage import check_state

TABLE = "relative_position_bias_table"
BUFFERS = ("relative_position_index", "attn_mask")  # computed from the window size, so not converted


@dataclass(frozen=True)
class Layout:
    """A publisher's names for the modules of a Swin, by our names. {s}: stage, {b}: block. a+b: rows of a, then of b.

    attention: the module with the position biases. merge: the module with the norm and the reduction of merged pixels.
    unfolded: whether the input channels of the merge are ordered as by `unfold`: for each channel its four pixels, row
    by row. Ours are ordered the other way: for each pixel, column by column, all its channels.
    """

    patch: dict[str, str]
    block: dict[str, str]
    attention: str
    merge: str
    unfolded: bool


ORIGINAL = Layout(
    patch={"patch": "patch_embed.proj", "patch_norm": "patch_embed.norm"},
    block={
        "attention_norm": "layers.{s}.blocks.{b}.norm1",
        "attention.qkv": "layers.{s}.blocks.{b}.attn.qkv",
        "attention.project": "layers.{s}.blocks.{b}.attn.proj",
        "mlp_norm": "layers.{s}.blocks.{b}.norm2",
        "mlp.expand": "layers.{s}.blocks.{b}.mlp.fc1",
        "mlp.contract": "layers.{s}.blocks.{b}.mlp.fc2",
    },
    attention="layers.{s}.blocks.{b}.attn",
    merge="layers.{s}.downsample",
    unfolded=False,
)
HUB_ATTENTION = "layers.{s}.blocks.{b}.attention.self"
HUB = Layout(
    patch={"patch": "embeddings.patch_embeddings.projection", "patch_norm": "embeddings.norm"},
    block={
        "attention_norm": "layers.{s}.blocks.{b}.layernorm_before",
        "attention.qkv": "+".join(f"{HUB_ATTENTION}.{part}" for part in ("query", "key", "value")),
        "attention.project": "layers.{s}.blocks.{b}.attention.output.dense",
        "mlp_norm": "layers.{s}.blocks.{b}.layernorm_after",
        "mlp.expand": "layers.{s}.blocks.{b}.intermediate.dense",
        "mlp.contract": "layers.{s}.blocks.{b}.output.dense",
    },
    attention=HUB_ATTENTION,
    merge="layers.{s}.downsample",
    unfolded=False,
)


def convert(state: State, where: object) -> Converted:
    """Convert an ImageNet classifier, without its last norm and layer.

    The norms of our four levels, which it does not have, get their initial values.
    """
    remaining = dict(state)
    options, model = extract_swin(remaining, "", ORIGINAL, where)
    with torch.device("meta"):
        wanted = SwinConfig.model_validate(options).build().state_dict()
    for name, like in wanted.items():
        if name.startswith("norms."):
            model.setdefault(name, torch.full(like.shape, float(name.endswith("weight"))))
    check_state(wanted, model, where)
    dropped = [name for name in remaining if name.startswith(("head.", "norm.")) or name.endswith(BUFFERS)]
    remark = f"for model.backbone: {json.dumps(options)}; {check_leftovers(remaining, dropped, where)}"
    return Converted(options["name"], model, remark)


def extract_swin(remaining: State, prefix: str, layout: Layout, where: object) -> tuple[dict[str, Any], State]:
    """Move the tensors of a Swin out of `remaining`. Return our `model.backbone` and the tensors under our names.

    Norms of the levels are included if they are there. Raises UserError for other networks.
    """
    converted: State = {}
    for ours, name in layout.patch.items():
        move_module(remaining, (prefix + name,), converted, ours)
    depths = tuple(_take_blocks(remaining, prefix, layout, stage, converted) for stage in range(4))
    width = len(converted.get("patch.bias", ()))
    names = [name for name, shape in SHAPES.items() if (shape.channels, shape.depths) == (width, depths)]
    if not names:
        raise UserError(
            where, f"holds no Swin-T, S, B or L, but {list_names(list(remaining | converted))}", "check --from"
        )
    # A merge lies between two stages. In timm it belongs to the second one, in the original release to the first.
    second = f"{prefix}{layout.merge.format(s=0)}.reduction.weight" not in remaining
    for stage in range(3):
        merge = prefix + layout.merge.format(s=stage + second)
        move_module(remaining, (f"{merge}.norm",), converted, f"merges.{stage}.norm")
        move_module(remaining, (f"{merge}.reduction",), converted, f"merges.{stage}.reduce")
    for stage in range(4):
        move_module(remaining, (f"{prefix}norm{stage}",), converted, f"norms.{stage}")
    if layout.unfolded:
        converted |= {name: _pixel_by_pixel(value) for name, value in converted.items() if name.startswith("merges.")}
    window = (math.isqrt(len(converted["stages.0.0.attention.position_bias"])) + 1) // 2
    return {"name": names[0]} | ({} if window == SHAPES[names[0]].window else {"window": window}), converted


def _take_blocks(remaining: State, prefix: str, layout: Layout, stage: int, converted: State) -> int:
    """Move the tensors of the blocks of a stage. Return the number of blocks."""
    block = 0
    while (table := f"{prefix}{layout.attention.format(s=stage, b=block)}.{TABLE}") in remaining:
        ours = f"stages.{stage}.{block}"
        converted[f"{ours}.attention.position_bias"] = remaining.pop(table)
        for part, name in layout.block.items():
            rows = tuple(prefix + each.format(s=stage, b=block) for each in name.split("+"))
            move_module(remaining, rows, converted, f"{ours}.{part}")
        block += 1
    return block


def _pixel_by_pixel(value: Tensor) -> Tensor:
    """Reorder the channels of merged pixels (the last axis) from `Layout.unfolded` to our order."""
    return value.unflatten(-1, (-1, 4))[..., [0, 2, 1, 3]].transpose(-1, -2).flatten(-2)
