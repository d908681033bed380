"""The page of a board: how far it is, what it could show and shows, what that costs, where every figure is from."""

import math
import os
from collections import Counter
from collections.abc import Collection, Sequence
from typing import Any

from tools.board.costs import Measured
from tools.board.definition import Board
from tools.board.judge import Judged, JudgedColumn, family
from tools.compare.report import describe_repeat
from tools.compare.statistics import LEVEL
from tools.markdown import markdown_table

VERDICTS = ("better", "no difference shown", "worse", "no verdict", "one seed shows nothing")


def page(
    board: Board,
    judged: Sequence[JudgedColumn],
    plan: dict[str, Any] | None,
    measured: Sequence[Measured],
    drawn: Collection[str],
    command: str,
) -> str:
    """The text of the page. drawn: hosts that have a chart. command: of the board, without options."""
    parts = [
        f"# {board.title}",
        f"Written by `{command}` from `{board.results}/*.json`, not by hand.",
        *([board.note] if board.note else []),
        _progress(judged),
        "## How to read it",
        _reading(judged),
        "## What it could show, fixed before the runs",
        *_planned(board, plan, command),
    ]
    for column in judged:
        parts += [f"## {column.column.host.title}", *_host(board, column, drawn)]
    parts += ["## What the upsamplers cost", *_costs(judged, measured), "## Where every row is from"]
    begun = [column for column in judged if len(column.missing) < len(column.rows)]
    for column in begun:
        parts += [f"### {column.column.name}", _origins(column)]
    if not begun:
        parts.append("No row is finished.")
    return "\n\n".join(parts) + "\n"


def summary(judged: Sequence[JudgedColumn], plan: dict[str, Any] | None) -> dict[str, Any]:
    """What the page shows of scores and verdicts, as a record."""
    return {"plan": plan, "hosts": {column.column.name: [_record(row) for row in column.rows] for column in judged}}


def _record(row: Judged) -> dict[str, Any]:
    kept = row.record or {}
    return {
        "upsampler": row.name,
        **{key: kept.get(key) for key in ("params", "macs", "seconds_per_step", "seeds", "diverged")},
        "metrics": {
            metric: {
                "mean": score.mean,
                "sd": score.sd,
                "difference": row.differences[metric].mean if metric in row.differences else None,
                "interval": [row.differences[metric].low, row.differences[metric].high]
                if metric in row.differences
                else None,
                "p": row.differences[metric].p if metric in row.differences else None,
            }
            for metric, score in row.scores.items()
        },
        "p_corrected": row.outcome.p if row.outcome else None,
        "verdict": _kind(row),
    }


def _progress(judged: Sequence[JudgedColumn]) -> str:
    lines: list[list[str]] = []
    totals: Counter[str] = Counter()
    for column in judged:
        kinds = Counter(_kind(row) for row in column.compared if row.record)
        totals += kinds
        counts = [str(kinds[kind]) for kind in ("better", "no difference shown", "worse")]
        others = kinds.total() - sum(kinds[kind] for kind in ("better", "no difference shown", "worse"))
        missing = ", ".join(column.missing) or "-"
        if len(column.missing) == len(column.rows):
            missing = "all"
        done = f"{len(column.rows) - len(column.missing)} of {len(column.rows)}"
        host = column.column.host
        lines.append(
            [host.title, host.metrics[0], str(host.seeds), done, *counts, str(others), _kind(column.control), missing]
        )
    finished = sum(len(column.rows) - len(column.missing) for column in judged)
    total = sum(len(column.rows) for column in judged)
    text = (
        f"**{finished} of {total} rows are finished.** Of the finished comparisons with a baseline "
        f"{totals['better']} say better, {totals['worse']} worse, "
        f"{totals['no difference shown']} show no difference."
    )
    header = [
        "host",
        "metric",
        "seeds",
        "rows",
        "better",
        "no difference shown",
        "worse",
        "no verdict",
        "baseline again",
        "missing",
    ]
    return f"{text}\n\n{markdown_table(header, lines)}"


def _reading(judged: Sequence[JudgedColumn]) -> str:
    number = family([column.column for column in judged])
    return (
        "Every upsampler has the same recipe, steps and seeds as the baseline of its host, and is compared with it "
        "seed by seed (two-sided paired t-test) by the **last** evaluation, never the best. The first metric of each "
        f"host is judged. Verdicts use Holm's correction over the whole board: {number} comparisons in all hosts "
        "together, also those that are not finished, which count as showing nothing. If no upsampler differed from "
        "its baseline, one board in twenty would say better or worse anywhere. Intervals and p are not corrected; "
        'p, Holm is. Other metrics are shown with intervals, without a verdict. "No difference shown" does not mean '
        'equal: see the next section. The row "again" is the baseline with other seeds, tested without pairing and '
        "without correction: what chance alone does. Rows are in the order of the list of upsamplers, which is no "
        "ranking."
    )


def _planned(board: Board, plan: dict[str, Any] | None, command: str) -> list[str]:
    if plan is None:
        return [f"Not fixed yet: `{command} --power`"]
    keys = ("level", "spread", "smallest_shown", "smallest_shown_corrected")
    lines = []
    for name, host in plan["hosts"].items():
        pilot, source = host["pilot"], "none"
        if pilot is not None:
            counts = f"{len(pilot['variants'])} variants, {len(pilot['seeds'])} seeds, {pilot['step']:,} steps"
            source = f"`{pilot['file']}`: {counts}"
        by_seeds = host["corrected_by_seeds"] or {}
        others = ", ".join(f"{seeds}: {_number(shown, digits=2)}" for seeds, shown in by_seeds.items()) or "-"
        numbers = [_number(host[key], digits=3) for key in keys]
        lines.append(
            [name, host["metric"], f"{host['steps']:,}", str(len(host["seeds"])), *numbers, others, source],
        )
    header = ["host", "metric", "steps", "seeds", "baseline", "spread", "shown", "shown, corrected"]
    text = (
        f"`{command} --power` wrote this to `{board.results}/plan.json` on {plan['date']}, before the runs. Spread: "
        "standard deviation, from seed to seed, of the differences to the baseline in the pilot. Shown: the true "
        f"difference that the seeds show in 80 % of repetitions at the level of {100 * LEVEL:g} %; corrected: at "
        f"{100 * plan['strictest']:.2g} %, the strictest level of Holm's correction over {plan['comparisons']} "
        "comparisons. A smaller one would be missed more often."
    )
    return [text, markdown_table([*header, "corrected, by number of seeds", "pilot"], lines)]


def _host(board: Board, judged: JudgedColumn, drawn: Collection[str]) -> list[str]:
    column, host = judged.column, judged.column.host
    experiment = column.comparison.repeat.experiment
    first, *others = host.metrics
    about = (
        f"`{host.cfg}`, {experiment.steps:,} steps of {experiment.batch_size} images, seeds "
        f"{column.comparison.seeds[0]} to {column.comparison.seeds[-1]}; baseline {host.baseline}. "
        + " ".join(
            f"{metric}: {'lower' if column.lower_is_better[metric] else 'higher'} is better." for metric in host.metrics
        )
    )
    header = ["upsampler", f"{first}: mean ± sd", f"minus {host.baseline} [95 %]", "p", "p, Holm", "verdict"]
    header += [f"{metric} minus {host.baseline} [95 %]" for metric in others] + [
        "+ parameters",
        "+ GMACs",
        "s per step",
    ]
    base = next((row.record for row in judged.rows if row.name == host.baseline), None)
    parts = [*([host.note] if host.note else []), about]
    rows = [row for row in judged.rows if row.record]
    if not rows:
        return [*parts, f"No row is finished: `{column.command} --only {column.name}`"]
    if column.name in drawn:
        chart = os.path.relpath(board.results / f"{column.name}.svg", board.page.parent)
        parts.append(f"![{host.title}: differences to {host.baseline} against latency]({chart})")
    parts.append(markdown_table(header, [_cells(row, judged, base) for row in rows]))
    repeat = (judged.control.record or {}).get("repeat")
    if repeat:
        parts.append(f"{host.baseline} with seed {repeat['seed']}, run twice, is {describe_repeat(repeat)}.")
    if judged.missing:
        parts.append(f"Missing: {', '.join(judged.missing)}.")
    return parts


def _cells(row: Judged, judged: JudgedColumn, base: dict[str, Any] | None) -> list[str]:
    host, record = judged.column.host, row.record or {}
    first, *others = host.metrics
    score = (
        f"{_number(row.scores[first].mean)} ± {_number(row.scores[first].sd, digits=2)}" if first in row.scores else "-"
    )
    found = row.differences.get(first)
    p_values = [_number(found.p, digits=2) if found else "-", "-"]
    if row.outcome and row.name != judged.column.control:
        p_values[1] = _number(row.outcome.p, digits=2)
    added = ["-", "-"]
    if base is not None:
        added = [f"{record['params'] - base['params']:,}", f"{(record['macs'] - base['macs']) / 1e9:.3f}"]
    return [
        row.name,
        score,
        _difference(row, first),
        *p_values,
        "the baseline" if row.name == host.baseline else record.get("diverged") or _kind(row),
        *(_difference(row, metric) for metric in others),
        *added,
        _number(record.get("seconds_per_step"), digits=3),
    ]


def _difference(row: Judged, metric: str) -> str:
    found = row.differences.get(metric)
    if found is None:
        return "-"
    return f"{_number(found.mean, '+', 3)} [{_number(found.low, '+', 3)}, {_number(found.high, '+', 3)}]"


def _costs(judged: Sequence[JudgedColumn], measured: Sequence[Measured]) -> list[str]:
    if not measured:
        return ["Not measured: `python -m tools.benchmark --save`, then `costs` of the board."]
    names = list(dict.fromkeys(name for column in judged for name in column.column.host.upsamplers))
    header = ["upsampler"]
    kinds: list[tuple[Measured, str]] = []
    for number, found in enumerate(measured, start=1):
        for kind, title in (
            ("forward", "forward, ms"),
            ("forward_backward", "with backward, ms"),
            ("peak_mb", "memory, MB"),
        ):
            if any(kind in cost for cost in found.costs.values()):
                header.append(f"{title} ({number})")
                kinds.append((found, kind))
    rows = [
        [name, *(_number(found.costs.get(name, {}).get(kind), digits=3) for found, kind in kinds)] for name in names
    ]
    sources = "; ".join(f"({number}) {found.machine}: `{found.file}`" for number, found in enumerate(measured, start=1))
    text = (
        "One call with 256 channels, 120 x 120 to 240 x 240, one image, float32, by `python -m tools.benchmark "
        f"--save`; memory: the peak of forward and backward. {sources}. -: not measured. Parameters and MACs that an "
        "upsampler adds to a host stand in the tables above."
    )
    return [text, markdown_table(header, rows)]


def _origins(judged: JudgedColumn) -> str:
    rows = [(row, row.record) for row in judged.rows if row.record]
    header = ["row", "seeds", "command", "commit", "machine", "date", "logs"]
    lines = [
        [
            row.name,
            f"{record['seeds'][0]} to {record['seeds'][-1]}",
            f"`{record['command']}`",
            _commits(record["commit"]),
            record["cpu"],
            record["date"],
            f"`{record['logs']}`",
        ]
        for row, record in rows
    ]
    return markdown_table(header, lines)


def _commits(text: str) -> str:
    commits = [part.partition(" ") for part in text.split(", ")]
    return ", ".join(f"{name[:10]}{space}{rest}" for name, space, rest in commits)


def _kind(row: Judged) -> str:
    if row.outcome is None:
        return "diverged" if row.record and row.record.get("diverged") else "-"
    return next((kind for kind in VERDICTS if row.outcome.verdict.startswith(kind)), "no verdict")


def _number(value: float | None, sign: str = "", digits: int = 4) -> str:
    if value is None or math.isnan(value):
        return "-"
    return f"{value:{sign},.0f}" if abs(value) >= 1000 else f"{value:{sign}.{digits}g}"
