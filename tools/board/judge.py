"""What the kept rows of a board show: differences to the baseline, and verdicts corrected over the whole board."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tools.board.definition import Column
from tools.compare.report import Outcome, compare_control, judge
from tools.compare.statistics import Estimate, holm, mean, paired_difference


@dataclass(frozen=True)
class Judged:
    """A row of a host. record: as it is kept; None if it is not finished. scores, differences: by metric.

    outcome: of the host's first metric; None for the baseline and where there is nothing to judge.
    """

    name: str
    record: dict[str, Any] | None
    scores: dict[str, Estimate]
    differences: dict[str, Estimate]
    outcome: Outcome | None


@dataclass(frozen=True)
class JudgedColumn:
    """A host with its rows, the control last."""

    column: Column
    rows: list[Judged]

    @property
    def compared(self) -> list[Judged]:
        """The rows that are compared with the baseline: not itself, nor its control."""
        return [row for row in self.rows if row.name not in (self.column.host.baseline, self.column.control)]

    @property
    def control(self) -> Judged:
        """The baseline with other seeds."""
        return self.rows[-1]

    @property
    def missing(self) -> list[str]:
        """Names of the rows that are not finished."""
        return [row.name for row in self.rows if row.record is None]


def family(columns: Sequence[Column]) -> int:
    """Number of comparisons that a board makes: all upsamplers but the baseline, in all hosts."""
    return sum(len(column.host.upsamplers) - 1 for column in columns)


def judge_board(columns: Sequence[Column], kept: Sequence[dict[str, dict[str, Any]]]) -> list[JudgedColumn]:
    """Judge the kept rows of each host. The first metrics of all hosts share Holm's correction.

    Its family is the board as it was planned: a row that is missing, or has no score, counts as one with p = 1. So no
    verdict gets weaker by the order in which rows are done.
    """
    number = family(columns)
    differences = [
        {
            (name, metric): paired_difference(_scores(rows, name)[metric], base[metric])
            for base in [_scores(rows, column.host.baseline)]
            for name in column.host.upsamplers
            if name != column.host.baseline
            for metric in column.host.metrics
            if metric in base and metric in _scores(rows, name)
        }
        for column, rows in zip(columns, kept, strict=True)
    ]
    tested = [
        (index, name)
        for index, (column, found) in enumerate(zip(columns, differences, strict=True))
        for name, metric in found
        if metric == column.host.metrics[0] and not math.isnan(found[name, metric].p)
    ]
    p_values = [differences[index][name, columns[index].host.metrics[0]].p for index, name in tested]
    corrected = dict(zip(tested, holm([*p_values, *[1.0] * (number - len(p_values))]), strict=False))
    return [
        _judge_column(
            column, rows, found, {name: p for (place, name), p in corrected.items() if place == index}, number
        )
        for index, (column, rows, found) in enumerate(zip(columns, kept, differences, strict=True))
    ]


def _judge_column(
    column: Column,
    kept: dict[str, dict[str, Any]],
    differences: dict[tuple[str, str], Estimate],
    corrected: dict[str, float],
    number: int,
) -> JudgedColumn:
    first, base = column.host.metrics[0], _scores(kept, column.host.baseline)
    rows = []
    for name in [*column.host.upsamplers, column.control]:
        values = _scores(kept, name)
        scores = {metric: mean(values[metric]) for metric in column.host.metrics if metric in values}
        found = {metric: differences[name, metric] for metric in column.host.metrics if (name, metric) in differences}
        outcome = None
        if first in found:
            p = corrected.get(name, math.nan)
            outcome = judge(found[first], p, number, column.lower_is_better[first], column.host.seeds)
        if name == column.control:
            controls = {
                metric: compare_control(values[metric], base[metric], column.lower_is_better[metric])
                for metric in scores
                if metric in base
            }
            found = {metric: control.difference for metric, control in controls.items()}
            outcome = controls.get(first)
        rows.append(Judged(name, kept.get(name), scores, found, outcome))
    return JudgedColumn(column, rows)


def _scores(rows: dict[str, dict[str, Any]], name: str) -> dict[str, list[float]]:
    return rows[name]["scores"] if name in rows else {}
