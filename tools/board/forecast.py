"""How long the rows that are left will take."""

import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from errors import UserError
from experiment import load_experiment
from models.cost import complexity
from tools.board.definition import Column
from tools.board.steps import read_steps
from tools.compare.comparison import count_costs
from tools.markdown import markdown_table

REFERENCE = Path("configs/det_nearest.yaml")  # whose step the files of benchmarks.gpu hold


def forecast(
    columns: Sequence[Column],
    kept: Sequence[dict[str, dict[str, Any]]],
    places: int,
    steps: Path,
    speed: Path | None,
) -> str:
    """A table of the runs that are left in each host, and the hours that they take, `places` at a time.

    A step takes as long as in the kept row of the upsampler, else as `steps` says, a file of `measure_steps`, else as
    in the median row of its host. Without any of them it is computed from `speed`, a file of benchmarks.gpu, whose one
    measured training step, a Faster R-CNN's, is scaled by multiply-accumulates. Starts and evaluations are left out.
    """
    measured = read_steps(steps)
    lines, total = [], 0.0
    for column, rows in zip(columns, kept, strict=True):
        left = {name: runs for name, runs in column.rows.items() if name not in rows}
        length = column.comparison.repeat.experiment.steps
        known = _known(column, rows, measured.get(column.name)) or (_scaled(column, speed) if speed else {})
        usual = statistics.median(known.values()) if known else None
        hours: float | None = 0.0
        for name, runs in left.items():
            variant = column.host.baseline if name == column.control else name
            seconds = known.get(variant, usual)
            hours = None if seconds is None or hours is None else hours + len(runs) * length * seconds / 3600
        total += hours or 0
        least, most = (f"{pick(known.values()):.3g}" if known else "?" for pick in (min, max))
        count = sum(map(len, left.values()))
        cells = [
            f"{length:,}",
            least if least == most else f"{least} to {most}",
            "?" if hours is None else f"{hours:,.1f}",
        ]
        wall = "?" if hours is None else f"{hours / places:,.1f}"
        lines.append([column.name, f"{len(rows)} of {len(column.rows)}", str(count), *cells, wall])
    lines.append(["all", "", "", "", "", f"{total:,.1f}", f"{total / places:,.1f}"])
    header = [
        "host",
        "rows kept",
        "runs left",
        "steps",
        "seconds per step",
        "hours of one place",
        f"hours, {places} at a time",
    ]
    return markdown_table(header, lines)


def _known(column: Column, rows: dict[str, dict[str, Any]], measured: dict[str, Any] | None) -> dict[str, float]:
    found = {}
    if measured is not None and measured["cfg"] == str(column.host.cfg):
        found = measured["seconds"]
    found = found | {name: row.get("seconds_per_step") for name, row in rows.items()}
    return {name: seconds for name, seconds in found.items() if seconds}


def _scaled(column: Column, path: Path) -> dict[str, float]:
    try:
        found = json.loads(path.read_text())["detector_step"]
        setting, seconds = found["setting"], found["results"]["nearest"]["step_s"]
        size, images = (setting["height"], setting["width"]), setting["batch"]
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(path, "has no measured step of a detector", "name a file of make gpu as `speed`") from None
    model = load_experiment(REFERENCE).build_model(pretrained=False)
    rate = seconds / images / complexity(model, size)["macs"]
    batch = column.comparison.repeat.experiment.batch_size
    return {name: cost["macs"] * batch * rate for name, cost in count_costs(column.comparison).items()}
