"""Published weights into ours: `python -m tools.convert_weights --from SOURCE IN OUT`.

SOURCE: segformer (mit_b*.pth and whole models of the original release, and of later work on its code), mmseg
(backbone only: its SegFormer has another head), huggingface (hub files of either naming, encoder or whole model;
MaskFormer), torchvision (ResNet-50 and ResNet-101 of ImageNet, Faster R-CNN and Mask R-CNN on them), mmdet (the same
detectors and Panoptic FPN of mmdetection 2 and 3, and of later work on its code), swin (swin_*.pth of the original
release), timm (its Swin Transformers), depthformer (whole models of its authors' toolbox), maskformer (whole models
of its release).
IN: a file of PyTorch (.pth, .pt, .bin), .safetensors, or a pickle of arrays (.pkl). OUT: {"format", "source", "kind",
"model"}, float32 tensors.
"""

import json
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from errors import ArgumentParser, UserError, run_command
from models.weights import FORMAT
from storage import is_state, read_tensors, refuse_special, replacing
from tools.published import SOURCES, convert
from tools.published.pickles import as_tensor, read_arrays
from tools.published.tensors import State


def read_published(path: Path) -> State:
    """The tensors of a published file, out of its wrappers, floating point ones as float32."""
    if path.suffix == ".safetensors":
        content: Any = read_safetensors(path)
    else:
        content = read_arrays(path) if path.suffix == ".pkl" else read_tensors(path, path)
    for wrapper in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    if isinstance(content, dict) and path.suffix == ".pkl":
        content = {name: as_tensor(value, path) for name, value in content.items()}
    if not content or not is_state(content):
        raise UserError(path, "is no dictionary of tensors", "give the published file of weights")
    if all(name.startswith("module.") for name in content):
        content = {name.removeprefix("module."): value for name, value in content.items()}
    for name, value in content.items():
        if not value.isfinite().all():
            raise UserError(f"{path}: {name}", "is infinite or no number", "fetch the file again, or use another")
    return {name: value.float() if value.is_floating_point() else value for name, value in content.items()}


SAFETENSORS_TYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
SAFETENSORS_TYPES |= {"I64": torch.int64, "I32": torch.int32}


def read_safetensors(path: Path) -> State:
    """The tensors of a .safetensors file: 8 bytes with the length of a JSON header, the header, the data."""
    refuse_special(path, path)
    try:
        data = bytearray(path.read_bytes())
        start = 8 + int.from_bytes(data[:8], "little")
        header = json.loads(data[8:start])
        header.pop("__metadata__", None)
        return {name: _tensor(data, start, **entry) for name, entry in header.items()}
    except OSError as error:
        raise UserError(path, f"cannot be read ({error.strerror})", "name a readable file") from None
    except Exception as error:  # a damaged header can hold anything
        raise UserError(path, f"is no safetensors file that can be read ({error})", "fetch it again") from None


def _tensor(data: bytearray, start: int, dtype: str, shape: list[int], data_offsets: list[int]) -> Tensor:
    begin, end = (start + offset for offset in data_offsets)
    kind = SAFETENSORS_TYPES[dtype]
    if not start <= begin <= end <= len(data):
        raise ValueError("it ends too early")
    if math.prod(shape) * kind.itemsize != end - begin:
        raise ValueError(f"shape {shape} does not take {end - begin} bytes")
    if begin == end:
        return torch.empty(shape, dtype=kind)
    return torch.frombuffer(data[begin:end], dtype=kind).reshape(shape)


def main() -> None:
    """The command."""
    parser = ArgumentParser(prog="tools.convert_weights", description=__doc__)
    parser.add_argument("--from", dest="source", required=True, choices=list(SOURCES))
    parser.add_argument("input", type=Path, metavar="IN")
    parser.add_argument("output", type=Path, metavar="OUT")
    arguments = parser.parse_args()
    if arguments.input.exists() and arguments.output.exists() and arguments.output.samefile(arguments.input):
        raise UserError(f"OUT {arguments.output}", "is the file to convert", "name another file")
    kind, model, remark = convert(arguments.source, read_published(arguments.input), arguments.input)
    own = {name: value.detach().clone() for name, value in model.items()}  # a view would be saved with all it views
    try:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        with replacing(arguments.output) as part:
            torch.save({"format": FORMAT, "source": arguments.source, "kind": kind, "model": own}, part)
    except (OSError, RuntimeError) as error:
        raise UserError(arguments.output, f"cannot be written ({error})", "name a file that you may write") from None
    numbers = sum(value.numel() for value in model.values())
    print(f"{arguments.output}: {kind}, {len(model)} tensors with {numbers:,} numbers; {remark}")


if __name__ == "__main__":
    run_command(main)
