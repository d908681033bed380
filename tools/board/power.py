"""What a board can show, and how long it will take: fixed before its runs, from a pilot of each host."""

import json
import math
import statistics
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

from errors import UserError
from tools.board.definition import Column
from tools.board.judge import family
from tools.compare.statistics import LEVEL, Estimate, mean, paired_difference

KEYS = ("pilot", "level", "spread", "smallest_shown", "smallest_shown_corrected", "corrected_by_seeds")
OTHER_SEEDS = (3, 5, 8, 12)  # numbers of seeds for which the plan also says what they would show


def make_plan(columns: Sequence[Column]) -> dict[str, Any]:
    """The plan of a board: for each host, its settings and the difference that its seeds can show.

    `smallest_shown`: the true difference that is shown in 80 % of repetitions, at the plain level of 5 % and at the
    strictest level of Holm's correction over the board. The spread is that of the pilot's paired differences, pooled
    over its variants. Without a pilot both are None.
    """
    number = family(columns)
    hosts = {column.name: {**settings(column), **_power(column, number)} for column in columns}
    return {"date": date.today().isoformat(), "comparisons": number, "strictest": LEVEL / number, "hosts": hosts}


def settings(column: Column) -> dict[str, Any]:
    """What the plan fixes of a host."""
    host = column.host
    return {
        "cfg": str(host.cfg),
        "steps": column.comparison.repeat.experiment.steps,
        "metric": host.metrics[0],
        "baseline": host.baseline,
        "upsamplers": list(host.upsamplers),
        "seeds": list(column.comparison.seeds),
    }


def read_plan(path: Path) -> dict[str, Any] | None:
    """Read a plan; None if there is none. Raises UserError if it is damaged."""
    if not path.exists():
        return None
    try:
        plan: dict[str, Any] = json.loads(path.read_text())
        sound = all(isinstance(host, dict) for host in plan["hosts"].values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        sound = False
    if not sound:
        raise UserError(path, "is damaged", "restore it, or remove it and run --power before any other run")
    return plan


def check_plan(path: Path, columns: Sequence[Column], command: str) -> None:
    """Raise UserError if the plan of the board is missing, or is that of other settings."""
    plan, do = read_plan(path), f"run {command} --power, and commit the file before the runs"
    if plan is None:
        raise UserError(path, "says what the board can show, and is not there", do)
    for column in columns:
        planned = plan["hosts"].get(column.name, {})
        for key, value in settings(column).items():
            if planned.get(key) != value:
                raise UserError(f"{path}: {column.name}.{key}", f"is {planned.get(key)}, the board's is {value}", do)


def _power(column: Column, number: int) -> dict[str, Any]:
    pilot = read_pilot(column)
    if pilot is None:
        return dict.fromkeys(KEYS)
    metric, scores = column.host.metrics[0], {item["name"]: item["metrics"] for item in pilot["variants"]}
    base = scores[pilot["baseline"]][metric]
    found = [paired_difference(item[metric], base) for name, item in scores.items() if name != pilot["baseline"]]
    spread, seeds = math.sqrt(statistics.fmean(item.sd**2 for item in found)), column.host.seeds
    return {
        "pilot": {
            "file": str(column.host.pilot),
            "cfg": pilot["cfg"],
            "step": pilot["step"],
            "seeds": pilot["seeds"],
            "variants": list(scores),
            "date": pilot["date"],
        },
        "level": mean(base).mean,
        "spread": spread,
        "smallest_shown": _shown(spread, seeds, 1),
        "smallest_shown_corrected": _shown(spread, seeds, number),
        "corrected_by_seeds": {str(count): _shown(spread, count, number) for count in OTHER_SEEDS},
    }


def _shown(spread: float, seeds: int, comparisons: int) -> float | None:
    if seeds == 1:
        return None
    planned = Estimate(0.0, spread, spread / math.sqrt(seeds), seeds - 1, math.nan, math.nan)
    return planned.smallest_shown(comparisons)


def read_pilot(column: Column) -> dict[str, Any] | None:
    """The report of a host's pilot; None if it has none. Raises UserError if the file is not one of its metric."""
    path, metric = column.host.pilot, column.host.metrics[0]
    if path is None:
        return None
    try:
        pilot: dict[str, Any] = json.loads(path.read_text())
        values = [value for item in pilot["variants"] for value in item["metrics"][metric]]
        enough = len(pilot["variants"]) > 1 and len(pilot["seeds"]) > 1
    except (OSError, ValueError, KeyError, TypeError):
        values, enough = [], False
    if not enough or None in values:
        what = f"is no report of tools.compare with {metric} of two variants and two seeds"
        raise UserError(path, what, "name another `pilot`, or leave it out")
    return pilot
