"""Run ONNX files with onnxruntime, which is installed only where it is wanted."""

from pathlib import Path
from typing import Any

import torch

from errors import UserError
from storage import check_is_file
from workflow.onnx_metadata import require


def open_session(path: Path) -> Any:
    """An `onnxruntime.InferenceSession` on the CPU, with as many threads as PyTorch has.

    Raises UserError if onnxruntime is not installed or cannot read the file.
    """
    check_is_file(path, path)
    require("onnxruntime")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # errors
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime has no common class for what it raises
        raise UserError(path, f"onnxruntime cannot run it ({error})", "export it again by tools.export_onnx") from None
