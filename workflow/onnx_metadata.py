"""What an exported model says about itself: one JSON object in the file, under the key `denseup`."""

import importlib.util
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter

from errors import UserError

KEY = "denseup"
VERSION = 1


@dataclass(frozen=True)
class Metadata:
    """All that a runtime must know to use the file.

    format: "raw": the outputs of the model; "full": the whole prediction. task, classes, things, max_depth: as in
    `structures.DatasetInfo`. model, upsampler: their names. preprocessing: "channel_order", "mean", "std" (in grey
    levels), "size_divisor", "resize" (the test transforms before and after normalising), "pad_value" (after
    normalising). config: the run's settings as YAML. licence: of the weights, where known. sampling: gather or
    grid_sample. opset: None in files that are not ONNX. precision: fp32 or fp16. verified: the greatest differences
    from PyTorch, or False.
    """

    format: str
    task: str
    model: str
    upsampler: str
    classes: tuple[str, ...]
    things: tuple[bool, ...]
    max_depth: float | None
    preprocessing: dict[str, Any]
    config: str
    licence: str | None
    sampling: Literal["gather", "grid_sample"]
    opset: int | None
    precision: str
    verified: dict[str, Any] | bool = False
    version: int = field(default=VERSION)

    def to_json(self) -> str:
        """The object as it stands in the file."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str | None, where: object) -> "Metadata":
        """The reverse. Raises UserError, naming `where`, if this is not the metadata of our export."""
        try:
            values = json.loads(text or "")
            if values.get("version") != VERSION:
                what = f"has metadata of version {values.get('version')}, this is for version {VERSION}"
                raise UserError(where, what, "export the model again")
            found = TypeAdapter(cls).validate_python(values)
            if not found.preprocessing["size_divisor"] >= 1:
                raise ValueError("no image can be padded to that")
            return found
        except (ValueError, TypeError, KeyError, AttributeError):
            what = "has no metadata of tools.export_onnx"
            raise UserError(where, what, "export the model with python -m tools.export_onnx") from None


def read_metadata(path: Path) -> Metadata:
    """The metadata of an ONNX file. Raises UserError if it is not ours, or if the library onnx is missing."""
    require("onnx")
    import onnx

    try:
        model = onnx.load(path, load_external_data=False)
    except FileNotFoundError:
        raise UserError(path, "no such file", "name a file of tools.export_onnx") from None
    except Exception as error:  # protobuf's classes differ between its versions
        raise UserError(path, f"is not an ONNX file ({error})", "export the model again") from None
    return Metadata.from_json({item.key: item.value for item in model.metadata_props}.get(KEY), path)


def require(*libraries: str) -> None:
    """Raise UserError unless the libraries are installed."""
    missing = [name for name in libraries if importlib.util.find_spec(name) is None]
    if missing:
        do = "pip install openvino" if missing == ["openvino"] else "pip install -r requirements-export.txt"
        raise UserError(", ".join(missing), "not installed", do)
