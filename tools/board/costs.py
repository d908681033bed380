"""What upsamplers cost, from files of tools.benchmark."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from errors import UserError
from tools.benchmark.options import SHAPE


@dataclass(frozen=True)
class Measured:
    """Costs on one device, by upsampler: "forward" and "forward_backward" in ms, "peak_mb" where it was measured.

    file: where they come from. machine: device, date and libraries in words.
    """

    file: Path
    device: str
    machine: str
    costs: dict[str, dict[str, float]]


def read_costs(paths: Sequence[Path]) -> list[Measured]:
    """Read the float32 settings of the paper's shape. Raises UserError for a file that has none."""
    return [_read(path) for path in paths]


def _read(path: Path) -> Measured:
    try:
        content = json.loads(path.read_text())
        if "upsamplers_fp32" in content:  # an earlier form, without memory
            found = content["upsamplers_fp32"]
            return Measured(path, found["device"], _words(found), found["milliseconds"])
        found = next(
            item for item in content["settings"] if item["dtype"] == "float32" and tuple(item["shape"]) == SHAPE
        )
        costs = {
            name: {
                "forward": item["forward"]["ms"]["median"],
                "forward_backward": item["forward_backward"]["ms"]["median"],
                "peak_mb": item["forward_backward"]["peak_mb"],
            }
            for name, item in found["upsamplers"].items()
        }
        return Measured(path, found["machine"]["device"], _words(found["machine"]), costs)
    except (OSError, ValueError, KeyError, TypeError, StopIteration):
        shape = " x ".join(map(str, SHAPE))
        do = "name a file of python -m tools.benchmark --save"
        raise UserError(path, f"has no times in float32 for {shape}", do) from None


def _words(about: dict[str, Any]) -> str:
    return f"{about['device']}, {about['threads']} CPU threads, torch {about['torch']}, {about['date']}"
