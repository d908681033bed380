"""DepthFormer with a Swin, from the authors' toolbox (Monocular-Depth-Estimation-Toolbox).

Only its bilinear interpolation is supported: no checkpoint with another upsampler was published.
"""

import json

import torch

from errors import UserError
from models.depthformer.hahi import HEADS
from models.depthformer.model import DepthFormerConfig
from published.converters.swin import BUFFERS, Layout, extract_swin
from published.converters.tensors import Converted, State, check_leftovers, list_names, move_module
from storage import check_state
from structures import DatasetInfo

SWIN = Layout(
    patch={"patch": "patch_embed.projection", "patch_norm": "patch_embed.norm"},
    block={
        "attention_norm": "stages.{s}.blocks.{b}.norm1",
        "attention.qkv": "stages.{s}.blocks.{b}.attn.w_msa.qkv",
        "attention.project": "stages.{s}.blocks.{b}.attn.w_msa.proj",
        "mlp_norm": "stages.{s}.blocks.{b}.norm2",
        "mlp.expand": "stages.{s}.blocks.{b}.ffn.layers.0.0",
        "mlp.contract": "stages.{s}.blocks.{b}.ffn.layers.1",
    },
    attention="stages.{s}.blocks.{b}.attn.w_msa",
    merge="stages.{s}.downsample",
    unfolded=True,
)
UNITS = {
    "neck.laterals.{i}": "neck.lateral_convs.{i}",
    "neck.embeds.0": "neck.conv_proj.0",
    "neck.embeds.{j}": "neck.trans_proj.{i}",
    "neck.fusions.0": "neck.conv_fusion.0",
    "neck.fusions.{j}": "neck.trans_fusion.{i}",
}
ATTENTION = {
    "offsets": "sampling_offsets",
    "weights": "attention_weights",
    "value": "value_proj",
    "project": "output_proj",
}
# Our names and the published ones. {i}: counted from 0, {j}: from 1.
MODULES = {
    "stem.conv": "backbone.conv1",
    "stem.bn": "backbone.bn1",
    **{f"{ours}.{part}": f"{name}.{part}" for ours, name in UNITS.items() for part in ("conv", "bn")},
    "neck.reference": "neck.reference_points",
    **{f"neck.aggregation.{ours}": f"neck.self_attn.{name}" for ours, name in ATTENTION.items()},
    **{f"neck.interaction.{ours}": f"neck.multi_att.{name}" for ours, name in ATTENTION.items()},
    "decoder.enter": "decode_head.conv_list.0.conv",
    "decoder.fusions.{i}.0": "decode_head.conv_list.{j}.convA.conv",
    "decoder.fusions.{i}.2": "decode_head.conv_list.{j}.convB.conv",
    "decoder.output": "decode_head.conv_depth",
}
ANY = DatasetInfo("depth", "any", max_depth=10.0)  # no tensor depends on the depths of the data


def convert(state: State, where: object) -> Converted:
    """Convert a whole model."""
    remaining = dict(state)
    backbone, converted = extract_swin(remaining, "backbone.", SWIN, where)
    model = {f"backbone.{name}": value for name, value in converted.items()}
    for ours, name in MODULES.items():
        for i in range(5):  # a name without {i} and {j} is moved in the first round
            move_module(remaining, (name.format(i=i, j=i + 1),), model, ours.format(i=i, j=i + 1))
    if "neck.level_embed" in remaining:
        model["neck.level_vectors"] = remaining.pop("neck.level_embed")
    for name in ("stem.conv.weight", "neck.level_vectors", "neck.interaction.weights.bias"):
        if name not in model:
            raise UserError(
                where, f"holds no DepthFormer with a HAHI neck, but {list_names(list(state))}", "check --from"
            )
    levels, channels = model["neck.level_vectors"].shape
    options = {
        "name": "depthformer",
        "backbone": backbone,
        "upsampler": {"name": "bilinear", "align_corners": True},
        "stem_channels": len(model["stem.conv.weight"]),
        "channels": channels,
        "points": len(model["neck.interaction.weights.bias"]) // (HEADS * levels),
    }
    remark = check_leftovers(remaining, [name for name in remaining if name.endswith(BUFFERS)], where)
    with torch.device("meta"):
        check_state(DepthFormerConfig.model_validate(options).build(ANY).state_dict(), model, where)
    return Converted(f"depthformer_{backbone['name']}", model, f"model: {json.dumps(options)}; {remark}", options)
