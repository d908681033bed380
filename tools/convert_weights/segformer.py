"""SegFormer: the original release and later work on its code, mmsegmentation (backbone only), the Hugging Face hub."""

import json
import re
from dataclasses import dataclass
from typing import Any

import torch

from errors import UserError
from models.backbones.mit import SHAPES, MiT
from models.segformer.model import SegFormerConfig
from storage import check_state
from structures import DatasetInfo
from tools.convert_weights.tensors import Converted, State, account, below, first, move, recognise


@dataclass(frozen=True)
class Layout:
    """How a publisher names the modules of SegFormer, by our names. {s}: stage, counted from `first`; {b}: block.

    prefixes: what may stand before the encoder's names. Several names for one of ours: their rows, one after another.
    dropped: the beginnings of names that have no place in our model.
    """

    prefixes: tuple[str, ...]
    first: int
    stage: dict[str, str]
    block: dict[str, tuple[str, ...]]
    head: dict[str, str]
    dropped: tuple[str, ...]


def _block(prefix: str, *names: str) -> dict[str, tuple[str, ...]]:
    """Names of a block's modules, in the order below, where `a+b` stands for rows of a, then of b."""
    attention = (f"attention.{part}" for part in ("query", "key_value", "reduce", "reduce_norm", "project"))
    ours = ("attention_norm", *attention, "mlp_norm", "mlp.expand", "mlp.depthwise", "mlp.contract")
    published = (tuple(prefix + part for part in name.split("+")) for name in names)
    return dict(zip(ours, published, strict=True))


MLP_NAMES = ("mlp.dwconv.dwconv", "mlp.fc2")
HUB_ATTENTION = ("attention.self.query", "attention.self.key+attention.self.value", "attention.self.sr")
HUB_HEAD = {"fuse": "decode_head.linear_fuse", "norm": "decode_head.batch_norm", "classifier": "decode_head.classifier"}

SEGFORMER = Layout(
    prefixes=("backbone.", ""),
    first=1,
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
    first=0,
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
    first=0,
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
    first=0,
    stage={"patch": "layers.{s}.0.projection", "patch_norm": "layers.{s}.0.norm", "norm": "layers.{s}.2"},
    block=_block(  # q and kv: made from in_proj
        *("layers.{s}.1.{b}.", "norm1", "attn.attn.q", "attn.attn.kv", "attn.sr", "attn.norm"),
        *("attn.attn.out_proj", "norm2", "ffn.layers.0", "ffn.layers.1", "ffn.layers.4"),
    ),
    head={},
    dropped=("decode_head.", "auxiliary_head.", "head."),
)


def convert(source: str, state: State, where: object) -> Converted:
    """See `tools.convert_weights.sources`."""
    layout = {"segformer": SEGFORMER, "mmseg": MMSEG, "huggingface": HUB}[source]
    if source == "huggingface" and any("stages.0." in name for name in state):
        layout = TRANSFORMERS
    if source == "mmseg":
        state = _split_projections(state)
    left = dict(state)
    backbone = _take_backbone(left, layout)
    shape = _shape(backbone)
    named = [name for name, known in SHAPES.items() if known == shape]
    if not named:
        what = f"holds no MiT-B0 to B5 by the names of {source}, but {first(list(state))}"
        raise UserError(where, what, "check --from")
    head, upsampler = _take_head(left, layout)
    dropped = [name for name in left if name.startswith(layout.dropped)]
    remark = account(left, dropped, where)
    if source == "mmseg" and any(name.startswith("decode_head.") for name in dropped):
        remark = "backbone only: mmseg's head is another network"
    if not head:
        with torch.device("meta"):
            check_state(MiT(*SHAPES[named[0]]).state_dict(), backbone, where)
        return Converted(named[0], backbone, remark)
    model = {f"backbone.{name}": value for name, value in backbone.items()}
    model |= {f"head.{name}": value for name, value in head.items()}
    num_classes = _check_model(named[0], model, upsampler, where)
    remark = f"{num_classes} classes, upsampler {json.dumps(upsampler)}; {remark}"
    return Converted(f"segformer_{named[0]}", model, remark)


def _take_backbone(left: State, layout: Layout) -> State:
    """Move the encoder's tensors out of `left`, under our names."""
    mark = layout.stage["patch"].format(s=layout.first)
    prefix = next((prefix for prefix in layout.prefixes if f"{prefix}{mark}.weight" in left), "")
    taken: State = {}
    for stage in range(4):
        for ours, published in layout.stage.items():
            move(left, (prefix + published.format(s=stage + layout.first),), taken, f"stages.{stage}.{ours}")
        for block in range(max(shape.depths[stage] for shape in SHAPES.values())):
            for ours, parts in layout.block.items():
                names = tuple(prefix + part.format(s=stage + layout.first, b=block) for part in parts)
                move(left, names, taken, f"stages.{stage}.blocks.{block}.{ours}")
    for name in taken:
        if re.search(r"mlp\.(expand|contract)\.weight$", name):
            taken[name] = taken[name].flatten(1)  # from a 1x1 convolution, where it is one
    return taken


def _take_head(left: State, layout: Layout) -> tuple[State, Any]:
    """Move the head's tensors, if there are any, out of `left`, under our names, and tell the upsampler."""
    taken: State = {}
    for ours, published in layout.head.items():
        if ours == "embeds":
            for stage in range(4):
                move(left, (published.format(s=stage + layout.first),), taken, f"embeds.{stage}")
        else:
            move(left, (published,), taken, ours)
    stages = [below(left, f"decode_head.upsamplers.{index}.") for index in range(6)]
    if "norm.weight" in taken and all(stages):
        found = recognise(stages, len(taken["norm.weight"]))
        if found is not None:
            for name in below(left, "decode_head.upsamplers."):
                del left[f"decode_head.upsamplers.{name}"]
            return taken | {f"upsamplers.{name}": value for name, value in found[0].items()}, found[1]
    return taken, "bilinear"  # tensors of unknown upsamplers stay behind, and are complained of


def _shape(backbone: State) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Channels and depths."""
    patches = [backbone.get(f"stages.{stage}.patch.weight") for stage in range(4)]
    channels = tuple(0 if patch is None else len(patch) for patch in patches)
    blocks = [re.match(r"stages\.(\d)\.blocks\.(\d+)\.", name) for name in backbone]
    found = {(int(block[1]), int(block[2])) for block in blocks if block}
    return channels, tuple(sum(stage == of for of, _ in found) for stage in range(4))


def _check_model(backbone: str, model: State, upsampler: Any, where: object) -> int:
    """Refuse a model of which something is missing; its number of classes."""
    classifier, norm = model.get("head.classifier.weight"), model.get("head.norm.weight")
    if classifier is None or norm is None:
        raise UserError(where, "has an incomplete head", "give the whole model, or its backbone alone")
    config = SegFormerConfig.model_validate({"backbone": backbone, "upsampler": upsampler, "channels": len(norm)})
    info = DatasetInfo("semantic", "any", tuple(map(str, range(len(classifier)))))
    check_state(config.build(info).state_dict(), model, where)
    return info.num_classes


def _split_projections(state: State) -> State:
    """Queries, keys and values of a block are one tensor at mmseg: rows q, k, v."""
    result: State = {}
    for name, value in state.items():
        found = re.fullmatch(r"(.+\.attn\.attn\.)in_proj_(weight|bias)", name)
        if found:
            rows = len(value) // 3
            result |= {f"{found[1]}q.{found[2]}": value[:rows], f"{found[1]}kv.{found[2]}": value[rows:]}
        else:
            result[name] = value
    return result
