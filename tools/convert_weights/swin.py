"""Swin Transformers of ImageNet, of the original release and of timm, and as the backbones of other networks."""

import json
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from errors import UserError
from models.backbones.swin import SHAPES, SwinConfig
from storage import check_state
from tools.convert_weights.tensors import Converted, State, account, first, move

TABLE = "relative_position_bias_table"
BUFFERS = ("relative_position_index", "attn_mask")  # what follows from the window's side


@dataclass(frozen=True)
class Layout:
    """How a publisher names the modules of a Swin, by our names. {s}: stage, {b}: block. a+b: the rows of a, then of b.

    attention: below which position biases stand. merge: below which the norm and the reduction of merged pixels stand.
    unfolded: their channels lie pixel by pixel, in the order of rows, in every channel; else channel by channel in
    every pixel, in the order of columns, as here.
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
    """An ImageNet classifier without its last norm and layer; the norms of our four levels start anew."""
    left = dict(state)
    options, model = take_swin(left, "", ORIGINAL, where)
    with torch.device("meta"):
        wanted = SwinConfig.model_validate(options).build().state_dict()
    for name, like in wanted.items():
        if name.startswith("norms."):
            model.setdefault(name, torch.full(like.shape, float(name.endswith("weight"))))
    check_state(wanted, model, where)
    dropped = [name for name in left if name.startswith(("head.", "norm.")) or name.endswith(BUFFERS)]
    remark = f"for model.backbone: {json.dumps(options)}; {account(left, dropped, where)}"
    return Converted(options["name"], model, remark)


def take_swin(left: State, prefix: str, layout: Layout, where: object) -> tuple[dict[str, Any], State]:
    """Move the tensors of a Swin out of `left`; our model.backbone, and they by our names, norms of levels where there.

    Raises UserError for other networks.
    """
    taken: State = {}
    for ours, name in layout.patch.items():
        move(left, (prefix + name,), taken, ours)
    depths = tuple(_take_blocks(left, prefix, layout, stage, taken) for stage in range(4))
    width = len(taken.get("patch.bias", ()))
    names = [name for name, shape in SHAPES.items() if (shape.channels, shape.depths) == (width, depths)]
    if not names:
        raise UserError(where, f"holds no Swin-T, S, B or L, but {first(list(left | taken))}", "check --from")
    # timm counts what lies between two stages to the second, the original release to the first.
    second = f"{prefix}{layout.merge.format(s=0)}.reduction.weight" not in left
    for stage in range(3):
        merge = prefix + layout.merge.format(s=stage + second)
        move(left, (f"{merge}.norm",), taken, f"merges.{stage}.norm")
        move(left, (f"{merge}.reduction",), taken, f"merges.{stage}.reduce")
    for stage in range(4):
        move(left, (f"{prefix}norm{stage}",), taken, f"norms.{stage}")
    if layout.unfolded:
        taken |= {name: _pixel_by_pixel(value) for name, value in taken.items() if name.startswith("merges.")}
    window = (math.isqrt(len(taken["stages.0.0.attention.position_bias"])) + 1) // 2
    return {"name": names[0]} | ({} if window == SHAPES[names[0]].window else {"window": window}), taken


def _take_blocks(left: State, prefix: str, layout: Layout, stage: int, taken: State) -> int:
    """Move the tensors of a stage's blocks; their number."""
    block = 0
    while (table := f"{prefix}{layout.attention.format(s=stage, b=block)}.{TABLE}") in left:
        ours = f"stages.{stage}.{block}"
        taken[f"{ours}.attention.position_bias"] = left.pop(table)
        for part, name in layout.block.items():
            rows = tuple(prefix + each.format(s=stage, b=block) for each in name.split("+"))
            move(left, rows, taken, f"{ours}.{part}")
        block += 1
    return block


def _pixel_by_pixel(value: Tensor) -> Tensor:
    """Of merged pixels: the channels (the last axis) in our order instead of `Layout.unfolded`."""
    return value.unflatten(-1, (-1, 4))[..., [0, 2, 1, 3]].transpose(-1, -2).flatten(-2)
