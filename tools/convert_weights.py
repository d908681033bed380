"""Published weights into ours: `python -m tools.convert_weights --from SOURCE IN OUT`.

SOURCE: segformer (mit_b*.pth and whole models of the original release, and of later work on its code), mmseg (backbone
only: its SegFormer has another head), huggingface (hub files of either naming, encoder or whole model).
IN: a file of PyTorch (.pth, .pt, .bin) or .safetensors. OUT: {"format", "source", "kind", "model"}, float32 tensors.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from errors import ArgumentParser, UserError, run_command
from models.backbones.mit import SHAPES, MiT
from models.segformer import SegFormerConfig
from models.weights import FORMAT, check_state, read_tensor_file
from structures import DatasetInfo
from upsamplers import PAPER_NAMES, Upsampler, build_upsampler, load_published

State = dict[str, Tensor]

# What an upsampler is told by: the first of these that takes its tensors.
UPSAMPLERS: list[Any] = [*PAPER_NAMES, {"name": "fade", "gate": True}, {"name": "sapa", "norm": "group"}]
BIASED: list[Any] = [{"name": name, "scope_bias": True} for name in ("dysample+", "dysample-s+")]  # the early form


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


def convert(source: str, state: State, where: object) -> tuple[str, State, str]:
    """Kind, tensors by our names, and a remark for the user. Raises UserError if these are not weights of `source`."""
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
        what = f"holds no MiT-B0 to B5 by the names of {source}, but {', '.join(list(state)[:3])}, ..."
        raise UserError(where, what, "check --from")
    head, upsampler = _take_head(left, layout)
    dropped = [name for name in left if name.startswith(layout.dropped)]
    unknown = sorted(left.keys() - set(dropped))
    if unknown:
        what = f"{len(unknown)} unknown tensors ({', '.join(unknown[:3])}{', ...' if len(unknown) > 3 else ''})"
        raise UserError(where, what, "check --from")
    remark = f"dropped {len(dropped)} tensors that the model does not use" if dropped else "all tensors used"
    if source == "mmseg" and any(name.startswith("decode_head.") for name in dropped):
        remark = "backbone only: mmseg's head is another network"
    if not head:
        with torch.device("meta"):
            check_state(MiT(*SHAPES[named[0]]).state_dict(), backbone, where)
        return named[0], backbone, remark
    model = {f"backbone.{name}": value for name, value in backbone.items()}
    model |= {f"head.{name}": value for name, value in head.items()}
    num_classes = _check_model(named[0], model, upsampler, where)
    return f"segformer_{named[0]}", model, f"{num_classes} classes, upsampler {json.dumps(upsampler)}; {remark}"


def _take_backbone(left: State, layout: Layout) -> State:
    """Move the encoder's tensors out of `left`, under our names."""
    mark = layout.stage["patch"].format(s=layout.first)
    prefix = next((prefix for prefix in layout.prefixes if f"{prefix}{mark}.weight" in left), "")
    taken: State = {}
    for stage in range(4):
        for ours, published in layout.stage.items():
            _move(left, (prefix + published.format(s=stage + layout.first),), taken, f"stages.{stage}.{ours}")
        for block in range(max(shape.depths[stage] for shape in SHAPES.values())):
            for ours, parts in layout.block.items():
                names = tuple(prefix + part.format(s=stage + layout.first, b=block) for part in parts)
                _move(left, names, taken, f"stages.{stage}.blocks.{block}.{ours}")
    for name in taken:
        if re.search(r"mlp\.(expand|contract)\.weight$", name):
            taken[name] = taken[name].flatten(1)  # from a 1x1 convolution, where it is one
    return taken


def _move(left: State, published: tuple[str, ...], taken: State, ours: str) -> None:
    for tensor in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
        names = [f"{name}.{tensor}" for name in published]
        if all(name in left for name in names):
            parts = [left.pop(name) for name in names]
            taken[f"{ours}.{tensor}"] = parts[0] if len(parts) == 1 else torch.cat(parts)


def _take_head(left: State, layout: Layout) -> tuple[State, Any]:
    """Move the head's tensors, if there are any, out of `left`, under our names, and tell the upsampler."""
    taken: State = {}
    for ours, published in layout.head.items():
        if ours == "embeds":
            for stage in range(4):
                _move(left, (published.format(s=stage + layout.first),), taken, f"embeds.{stage}")
        else:
            _move(left, (published,), taken, ours)
    stages = [
        {name.removeprefix(prefix): value for name, value in left.items() if name.startswith(prefix)}
        for prefix in (f"decode_head.upsamplers.{index}." for index in range(6))
    ]
    if "norm.weight" in taken and all(stages):
        for candidate in BIASED if "scope.bias" in stages[0] else UPSAMPLERS:
            upsamplers = torch.nn.ModuleList(build_upsampler(candidate, len(taken["norm.weight"])) for _ in stages)
            try:
                for upsampler, weights in zip(upsamplers, stages, strict=True):
                    load_published(cast(Upsampler, upsampler), weights)
            except ValueError:  # these are weights of another upsampler
                continue
            for name in [name for name in left if name.startswith("decode_head.upsamplers.")]:
                del left[name]
            return taken | {f"upsamplers.{name}": value for name, value in upsamplers.state_dict().items()}, candidate
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


def read_published(path: Path) -> State:
    """The tensors of a published file, out of its wrappers, floating point ones as float32."""
    content = read_safetensors(path) if path.suffix == ".safetensors" else read_tensor_file(path, path)
    for wrapper in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    if not isinstance(content, dict) or not content or not all(isinstance(value, Tensor) for value in content.values()):
        raise UserError(path, "is no dictionary of tensors", "give the published file of weights")
    if all(name.startswith("module.") for name in content):
        content = {name.removeprefix("module."): value for name, value in content.items()}
    return {name: value.float() if value.is_floating_point() else value for name, value in content.items()}


SAFETENSORS_TYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
SAFETENSORS_TYPES |= {"I64": torch.int64, "I32": torch.int32}


def read_safetensors(path: Path) -> State:
    """The tensors of a .safetensors file: 8 bytes with the length of a JSON header, the header, the data."""
    try:
        data = bytearray(path.read_bytes())
        start = 8 + int.from_bytes(data[:8], "little")
        header = json.loads(data[8:start])
        header.pop("__metadata__", None)
        return {name: _tensor(data, start, **entry) for name, entry in header.items()}
    except FileNotFoundError:
        raise UserError(path, "no such file", "correct the path") from None
    except OSError as error:
        raise UserError(path, f"cannot be read ({error.strerror})", "name a readable file") from None
    except (ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise UserError(path, f"is no safetensors file that can be read ({error})", "fetch it again") from None


def _tensor(data: bytearray, start: int, dtype: str, shape: list[int], data_offsets: list[int]) -> Tensor:
    begin, end = (start + offset for offset in data_offsets)
    kind = SAFETENSORS_TYPES[dtype]
    if not start <= begin <= end <= len(data):
        raise ValueError("it ends too early")
    if begin == end:
        return torch.empty(shape, dtype=kind)
    return torch.frombuffer(data[begin:end], dtype=kind).reshape(shape)


def main() -> None:
    """The command."""
    parser = ArgumentParser(prog="tools.convert_weights", description=__doc__)
    parser.add_argument("--from", dest="source", required=True, choices=["segformer", "mmseg", "huggingface"])
    parser.add_argument("input", type=Path, metavar="IN")
    parser.add_argument("output", type=Path, metavar="OUT")
    arguments = parser.parse_args()
    kind, model, remark = convert(arguments.source, read_published(arguments.input), arguments.input)
    own = {name: value.detach().clone() for name, value in model.items()}  # a view would be saved with all it views
    try:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        torch.save({"format": FORMAT, "source": arguments.source, "kind": kind, "model": own}, arguments.output)
    except (OSError, RuntimeError) as error:
        raise UserError(arguments.output, f"cannot be written ({error})", "name a file that you may write") from None
    numbers = sum(value.numel() for value in model.values())
    print(f"{arguments.output}: {kind}, {len(model)} tensors with {numbers:,} numbers; {remark}")


if __name__ == "__main__":
    run_command(main)
