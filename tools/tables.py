"""The parameter and FLOPs columns of the paper's Tables 4 and 6 to 9, from our models: `python -m tools.tables`.

Every figure that the paper prints (`tools/paper/tables.json`) stands beside ours, with a verdict:

    equal       ours, all learnable numbers, is the printed figure in the printed digits
    rounding    it is, by another rounding than to the nearest
    explained   it is, by another way of counting, which the note names
    open        it is not; the note says what was tried

No weights and no data are needed. FLOPs are multiply-accumulates, in G, by the rule of `Upsampler.macs`.
--grid adds every upsampler in every model, with a dash where the paper prints nothing. --json prints a list of
{table, row, column, paper, ours, verdict, note}; with --grid the grid's list instead.
"""

import json
from argparse import RawDescriptionHelpFormatter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import date
from decimal import ROUND_DOWN, ROUND_HALF_UP, Decimal
from pathlib import Path
from typing import Any, Literal, get_args

from errors import ArgumentParser, run_command
from tools.markdown import markdown_table
from tools.paper.counts import (
    FOUR_STAGES,
    HOSTS,
    Counts,
    Host,
    added_macs,
    count,
    indexnet_macs_with_norms,
    input_size,
    stage_with_unused_branch,
    whole_macs,
)
from upsamplers import PAPER_NAMES

PAPER = Path(__file__).parent / "paper/tables.json"
POWERS = {"K": 3, "M": 6, "G": 9}  # of ten

HEADER = """# Counts beside the paper's

`{command}` printed this on {date}.

"Ours" are all learnable numbers that an upsampler adds, or of the whole model, and multiply-accumulates in G. "Weights"
are those without biases and norms, which most of the paper's figures in K count.
Verdicts: **equal**, the printed figure in the printed digits; **rounding**, by another rounding; **explained**, by
another way of counting; **open**, not reproduced. Figures of the paper without + are those of the whole model."""

Verdict = Literal["equal", "rounding", "explained", "open"]


# --- beside the paper's ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cell:
    """A figure of the paper and ours: parameters, or MACs in G. weights: parameters without biases and norms.

    weights is None where they are not the question: MACs, whole models.
    """

    table: int
    row: str
    column: str
    paper: str
    ours: int | float
    weights: int | None
    verdict: Verdict
    note: str

    def record(self) -> dict[str, Any]:
        """What `--json` prints."""
        return {key: value for key, value in asdict(self).items() if key != "weights"}


def published() -> dict[int, dict[str, dict[str, str]]]:
    """The paper's figures as printed, by table, column and row."""
    return {int(table): columns for table, columns in json.loads(PAPER.read_text())["tables"].items()}


def cells() -> list[Cell]:
    """Every published figure beside ours, in the paper's order."""
    return [
        JUDGES[column](table, row, paper)
        for table, columns in published().items()
        for column, rows in columns.items()
        for row, paper in rows.items()
    ]


def judge_parameters(table: int, row: str, paper: str) -> Cell:
    """A figure of a column Params. With a plus it is what the upsampler adds, else the whole model."""
    variant, upsampler = _split(row)
    host = HOSTS[table][variant]
    ours = count(host, upsampler)
    if not paper.startswith("+"):
        return Cell(table, row, "Params", paper, ours.total, None, *_judge_whole(paper, ours))
    verdict, note = _judge_added(paper, ours)
    if table == 7:  # its caption and the paper's text differ
        plain = count(HOSTS[table][_row(variant, "three stages")], upsampler)
        verdict = "explained" if verdict != "open" else verdict
        reading = f"four stages as in the caption ({FOUR_STAGES}); the text's three, our default, add {plain.added:,}"
        note = f"{reading}; {note}" if note else reading
    if verdict == "open" and upsampler == "a2u":
        note += f"; its first stage with the published module's unused branch has {stage_with_unused_branch(host):,}"
    return Cell(table, row, "Params", paper, ours.added, ours.weights, verdict, note)


def judge_macs(table: int, row: str, paper: str) -> Cell:
    """A figure of a column FLOPs, in G. With a plus it is what the upsampler adds, else the whole model."""
    variant, upsampler = _split(row)
    host = HOSTS[table][variant]
    macs = added_macs(host, upsampler) if paper.startswith("+") else whole_macs(host, upsampler)
    verdict, note = _judge_macs(host, upsampler, macs, paper)
    return Cell(table, row, "FLOPs", paper, round(macs / 1e9, 3), None, verdict, note)


JUDGES = {"Params": judge_parameters, "FLOPs": judge_macs}


def printed(value: int, paper: str, rounding: str = ROUND_HALF_UP) -> str:
    """The value in the form of the paper's figure: its sign, unit (without one: G) and number of decimals."""
    unit = paper[-1] if paper[-1] in POWERS else ""
    decimals = len(paper.removesuffix(unit).partition(".")[2])
    scaled = Decimal(value).scaleb(-POWERS[unit or "G"]).quantize(Decimal(1).scaleb(-decimals), rounding)
    return f"{'+' * paper.startswith('+')}{scaled}{unit}"


def _split(row: str) -> tuple[str, str]:
    variant, _, upsampler = row.rpartition(", ")
    return variant, upsampler


def _row(variant: str, name: str) -> str:
    return f"{variant}, {name}" if variant else name


def _judge_whole(paper: str, ours: Counts) -> tuple[Verdict, str]:
    if printed(ours.total, paper) == paper:
        frozen = ours.total > ours.trainable
        return "equal", "with the frozen stem and first stage, which Table 6 leaves out" if frozen else ""
    if printed(ours.trainable, paper) == paper:
        note = (
            f"trainable ones alone, {ours.trainable:,}, without the frozen stem and first stage, which Table 8 counts"
        )
        return "explained", note
    return "open", f"trainable ones alone: {ours.trainable:,}"


def _judge_added(paper: str, ours: Counts) -> tuple[Verdict, str]:
    by_weights, alone = printed(ours.weights, paper), f"weights alone, without biases and norms: {ours.weights:,}"
    if printed(ours.added, paper) == paper:
        return "equal", "" if by_weights == paper else f"{alone}, {by_weights}"
    if by_weights == paper:
        return "explained", alone
    if printed(ours.weights, paper, ROUND_DOWN) == paper:
        return "rounding", f"{alone}, cut off instead of rounded"
    return "open", alone


def _judge_macs(host: Host, upsampler: str, macs: int, paper: str) -> tuple[Verdict, str]:
    if printed(macs, paper) == paper:
        quarter = f"counted at the size of the output; {macs / 4e9:.2f} are what the operator needs"
        return "equal", quarter if upsampler == "deconv" else ""
    twice = int(Decimal(macs).scaleb(-7).quantize(Decimal(1), ROUND_HALF_UP).scaleb(7))
    if printed(twice, paper) == paper:
        note = f"rounded to {twice / 1e9:.2f} and then once more"
        if upsampler == "indexnet":
            note += f", or with its BatchNorm counted, {indexnet_macs_with_norms(host) / 1e9:.3f}"
        return "rounding", note
    gated = added_macs(host, "{name: fade, gate: true}") if upsampler == "fade" else macs
    if printed(gated, paper) == paper:
        return (
            "explained",
            f"of the gated operator, {gated / 1e9:.3f}; the paper says that it takes the one without gate",
        )
    return "open", "no other rounding gives it"


# --- the grid --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class GridRow:
    """An upsampler in a model: as `Counts`, and MACs. paper_..: as printed, None where the paper prints nothing."""

    table: int
    model: str
    upsampler: str
    paper_params: str | None
    added: int
    weights: int
    paper_macs: str | None
    macs: int
    total: int
    trainable: int


def grid(table: int, variant: str) -> list[GridRow]:
    """Every upsampler in one model, a key of `HOSTS`."""
    host, columns, rows = HOSTS[table][variant], published().get(table, {}), []
    for upsampler in PAPER_NAMES:
        params, macs = (columns.get(column, {}).get(_row(variant, upsampler)) for column in JUDGES)
        counts = asdict(count(host, upsampler)) | {"macs": added_macs(host, upsampler)}
        rows.append(GridRow(table, host.title, upsampler, paper_params=params, paper_macs=macs, **counts))
    return rows


# --- as text ---------------------------------------------------------------------------------------------------------


def cells_text(found: Sequence[Cell], markdown: bool) -> str:
    """A table for each of the paper's, and how many cells have which verdict."""
    parts = []
    for table, hosts in HOSTS.items():
        rows = [
            (cell.row, cell.column, cell.paper, _number(cell.ours), _number(cell.weights), cell.verdict, cell.note)
            for cell in found
            if cell.table == table
        ]
        if rows:
            names = ("upsampler", "column", "paper", "ours", "weights", "verdict", "note")
            title = f"Table {table}: {hosts[''].title}"
            parts.append(_table(title, names, rows, markdown))
    verdicts = [cell.verdict for cell in found]
    summary = ", ".join(f"{verdicts.count(verdict)} {verdict}" for verdict in get_args(Verdict))
    return "\n\n".join([*parts, f"{len(found)} cells: {summary}"])


def grid_text(table: int, variant: str, markdown: bool) -> str:
    """One model's part of the grid."""
    names = ("upsampler", "paper", "added", "weights", "paper, G", "added, G", "whole model", "trainable")
    rows = [
        (
            *(row.upsampler, row.paper_params or "-", _number(row.added), _number(row.weights)),
            *(row.paper_macs or "-", _number(row.macs / 1e9), _number(row.total), _number(row.trainable)),
        )
        for row in grid(table, variant)
    ]
    height, width = input_size(HOSTS[table][variant])
    title = f"{HOSTS[table][variant].title} (Table {table}), MACs of the upsamplers for an image of {height} x {width}"
    return _table(title, names, rows, markdown)


def _table(title: str, names: Sequence[str], rows: Sequence[Sequence[str]], markdown: bool) -> str:
    if markdown:
        return f"### {title}\n\n{markdown_table(names, rows)}"
    widths = [max(map(len, column)) for column in zip(names, *rows, strict=True)]
    lines = [[word.ljust(width) for word, width in zip(line, widths, strict=True)] for line in (names, *rows)]
    return "\n".join([title, *("  ".join(line).rstrip() for line in lines)])


def _number(value: int | float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,}" if isinstance(value, int) else f"{value:.3f}"


def main() -> None:
    """The command."""
    parser = ArgumentParser(prog="tools.tables", description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print JSON")
    form.add_argument("--markdown", action="store_true", help="print Markdown, as in docs/tables.md")
    parser.add_argument("--grid", action="store_true", help="every upsampler in every model")
    arguments = parser.parse_args()
    variants = [(table, variant) for table, hosts in HOSTS.items() for variant in hosts]
    if arguments.json:
        rows = [asdict(row) for variant in variants for row in grid(*variant)] if arguments.grid else None
        print(json.dumps([cell.record() for cell in cells()] if rows is None else rows, indent=2))
        return
    parts = [cells_text(cells(), arguments.markdown)]
    if arguments.markdown:
        command = f"python -m tools.tables --markdown{' --grid' * arguments.grid}"
        parts.insert(0, HEADER.format(command=command, date=date.today()))
    if arguments.grid:
        parts += [grid_text(*variant, arguments.markdown) for variant in variants]
    print("\n\n".join(parts))


if __name__ == "__main__":
    run_command(main)
