"""Measure an exported file: the latency of one image with onnxruntime on the CPU."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from errors import UserError
from tools.benchmark.measure import WARM_UP, machine, milliseconds, quartiles
from workflow.onnx_metadata import read_metadata
from workflow.onnx_runtime import open_session

SIZE = (512, 512)  # of the image, for files that take any


def measure_onnx(path: Path, size: tuple[int, int] | None, repeats: int) -> dict[str, Any]:
    """Time a file of tools.export_onnx with random numbers in an image of `size`, or of the size that the file takes.

    Raises UserError if onnxruntime cannot run it, or not with this size.
    """
    metadata, session = read_metadata(path), open_session(path)
    taken = next(item.shape for item in session.get_inputs() if item.name == "images")
    fixed = [side for side in taken[2:] if isinstance(side, int)]
    height, width = size or (fixed if len(fixed) == 2 else SIZE)
    sides = np.array([height, width], np.int64)
    images = torch.randn(1, taken[1], height, width, generator=torch.Generator().manual_seed(0)).numpy()
    values = {"images": images, "unpadded": sides, "size": sides}
    inputs = {item.name: values[item.name] for item in session.get_inputs()}
    try:
        times = [milliseconds(lambda: session.run(None, inputs), "cpu") for _ in range(WARM_UP + repeats)]
    except Exception as error:  # onnxruntime has no common class for what it raises
        taken_sides = " x ".join(map(str, taken[2:]))
        what = f"onnxruntime cannot run it with an image of {height} x {width}, it takes {taken_sides} ({error})"
        raise UserError(path, what, "give such sides by --shape 1 3 H W, multiples of 64 if they may be any") from None
    about = {key: getattr(metadata, key) for key in ("model", "task", "upsampler", "format", "precision")}
    return {
        "file": str(path),
        **about,
        "image": [height, width],
        "repeats": repeats,
        "ms": quartiles(times[WARM_UP:]),
        "machine": machine("cpu"),
    }


def describe_onnx(measured: dict[str, Any]) -> str:
    """The numbers in one line."""
    (height, width), ms, about = measured["image"], measured["ms"], measured["machine"]
    return (
        f"{measured['file']}: {height} x {width}, {ms['median']:.4g} ms ({ms['q1']:.4g}..{ms['q3']:.4g}), "
        f"{measured['repeats']} rounds, onnxruntime with {about['threads']} threads on {about['device']}"
    )
