"""The paper's figures beside ours, each with a verdict."""

import json
from dataclasses import asdict, dataclass, replace
from decimal import ROUND_DOWN, ROUND_HALF_UP, Decimal
from pathlib import Path
from typing import Any, Literal

from tools.tables.counts import (
    FOUR_STAGES,
    HOSTS,
    Counts,
    Host,
    added_macs,
    count,
    indexnet_macs_with_norms,
    sapa_macs_with_eight,
    stage_with_unused_branch,
    whole_macs,
)

PAPER = Path(__file__).parent / "tables.json"
POWERS = {"K": 3, "M": 6, "G": 9}  # of ten
Verdict = Literal["equal", "rounding", "explained", "open"]


@dataclass(frozen=True)
class Cell:
    """A figure of the paper and ours: parameters, or MACs in G.

    weights: parameters without biases and norms; None for MACs and for whole models.
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
        """The record that `--json` prints."""
        return {key: value for key, value in asdict(self).items() if key != "weights"}


def read_published() -> dict[int, dict[str, dict[str, str]]]:
    """Read the paper's figures as printed, by table, column and row."""
    return {int(table): columns for table, columns in json.loads(PAPER.read_text())["tables"].items()}


def read_others() -> dict[str, str]:
    """Where the figures of upsamplers come from that the paper does not have."""
    others: dict[str, str] = json.loads(PAPER.read_text())["others"]
    return others


def cells() -> list[Cell]:
    """Every published figure beside ours, in the paper's order."""
    found = [
        JUDGES[column](table, row, paper)
        for table, columns in read_published().items()
        for column, rows in columns.items()
        for row, paper in rows.items()
    ]
    others = read_others()
    return [
        replace(cell, note="; ".join(filter(None, [f"printed in {others[cell.row]}", cell.note])))
        if cell.row in others
        else cell
        for cell in found
    ]


def judge_parameters(table: int, row: str, paper: str) -> Cell:
    """Judge a figure of a column Params. A figure with a plus is for the upsampler, else for the whole model."""
    variant, upsampler = _split_row_name(row)
    host = HOSTS[table][variant]
    ours = count(host, upsampler)
    if not paper.startswith("+"):
        return Cell(table, row, "Params", paper, ours.total, None, *_judge_whole(paper, ours))
    verdict, note = _judge_added(paper, ours)
    if table == 7:  # its caption and the paper's text differ
        plain = count(HOSTS[table][row_name(variant, "three stages")], upsampler)
        verdict = "explained" if verdict != "open" else verdict
        reading = f"four stages as in the caption ({FOUR_STAGES}); the text's three, our default, add {plain.added:,}"
        note = f"{reading}; {note}" if note else reading
    if verdict == "open" and upsampler == "a2u":
        note += f"; its first stage with the published module's unused branch has {stage_with_unused_branch(host):,}"
    return Cell(table, row, "Params", paper, ours.added, ours.weights, verdict, note)


def judge_macs(table: int, row: str, paper: str) -> Cell:
    """Judge a figure of a column FLOPs, in G. A figure with a plus is for the upsampler, else for the whole model."""
    variant, upsampler = _split_row_name(row)
    host = HOSTS[table][variant]
    macs = added_macs(host, upsampler) if paper.startswith("+") else whole_macs(host, upsampler)
    verdict, note = _judge_macs(host, upsampler, macs, paper)
    return Cell(table, row, "FLOPs", paper, round(macs / 1e9, 3), None, verdict, note)


JUDGES = {"Params": judge_parameters, "FLOPs": judge_macs}


def format_like(value: int, paper: str, rounding: str = ROUND_HALF_UP) -> str:
    """Format the value like the paper's figure: with its sign, unit (G if it has none) and number of decimals."""
    unit = paper[-1] if paper[-1] in POWERS else ""
    decimals = len(paper.removesuffix(unit).partition(".")[2])
    scaled = Decimal(value).scaleb(-POWERS[unit or "G"]).quantize(Decimal(1).scaleb(-decimals), rounding)
    return f"{'+' * paper.startswith('+')}{scaled}{unit}"


def _split_row_name(row: str) -> tuple[str, str]:
    variant, _, upsampler = row.rpartition(", ")
    return variant, upsampler


def row_name(variant: str, name: str) -> str:
    """The name of a row of the paper: the variant, if there is one, and the upsampler."""
    return f"{variant}, {name}" if variant else name


def _judge_whole(paper: str, ours: Counts) -> tuple[Verdict, str]:
    if format_like(ours.total, paper) == paper:
        frozen = ours.total > ours.trainable
        return "equal", "with the frozen stem and first stage, which Table 6 leaves out" if frozen else ""
    if format_like(ours.trainable, paper) == paper:
        note = (
            f"trainable ones alone, {ours.trainable:,}, without the frozen stem and first stage, which Table 8 counts"
        )
        return "explained", note
    return "open", f"trainable ones alone: {ours.trainable:,}"


def _judge_added(paper: str, ours: Counts) -> tuple[Verdict, str]:
    by_weights, alone = format_like(ours.weights, paper), f"weights alone, without biases and norms: {ours.weights:,}"
    if format_like(ours.added, paper) == paper:
        return "equal", "" if by_weights == paper else f"{alone}, {by_weights}"
    if by_weights == paper:
        return "explained", alone
    if format_like(ours.weights, paper, ROUND_DOWN) == paper:
        return "rounding", f"{alone}, cut off instead of rounded"
    return "open", alone


def _judge_macs(host: Host, upsampler: str, macs: int, paper: str) -> tuple[Verdict, str]:
    if format_like(macs, paper) == paper:
        quarter = f"counted at the size of the output; {macs / 4e9:.2f} are what the operator needs"
        return "equal", quarter if upsampler == "deconv" else ""
    twice = int(Decimal(macs).scaleb(-7).quantize(Decimal(1), ROUND_HALF_UP).scaleb(7))
    if format_like(twice, paper) == paper:
        note = f"rounded to {twice / 1e9:.2f} and then once more"
        if upsampler == "indexnet":
            note += f", or with its BatchNorm counted, {indexnet_macs_with_norms(host) / 1e9:.3f}"
        return "rounding", note
    if upsampler == "sapa-d" and format_like(fewer := sapa_macs_with_eight(host), paper) == paper:
        return "explained", f"with 8 operations to read a value instead of our 11, {fewer / 1e9:.3f}"
    gated = added_macs(host, "{name: fade, gate: true}") if upsampler == "fade" else macs
    if format_like(gated, paper) == paper:
        return (
            "explained",
            f"of the gated operator, {gated / 1e9:.3f}; the paper says that it takes the one without gate",
        )
    return "open", "no other rounding gives it"
