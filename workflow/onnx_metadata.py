"""What an exported file says of itself: one JSON object among the properties of the ONNX model, under `denseup`."""

import json
from pathlib import Path
from typing import Any

from errors import UserError
from storage import check_is_file
from workflow.onnx_runtime import open_session

KEY = "denseup"


def read_metadata(path: Path) -> dict[str, Any]:
    """The object of an ONNX file. Raises UserError if it has none."""
    check_is_file(path, path)
    text = open_session(path).get_modelmeta().custom_metadata_map.get(KEY)
    if text is None:
        raise UserError(path, "does not say how it was exported", "export it by tools.export_onnx")
    metadata: dict[str, Any] = json.loads(text)
    return metadata
