"""The parameter and FLOPs columns of the paper's Tables 4 and 6 to 9, from our models: `python -m tools.tables`.

Every figure that the paper prints (`tools/tables/tables.json`) is shown beside ours, with a verdict, and so are figures
that newer upsamplers' papers print for the same models:

    equal       ours (parameters: all learnable numbers) equals the printed figure in all its digits
    rounding    equal, if rounded in another way than to the nearest
    explained   equal, if counted in another way, which the note names
    open        not equal; the note says what was tried

No weights and no data are needed. FLOPs are multiply-accumulates, in G, by the rule of `Upsampler.macs`.
--grid adds every upsampler in every model, with a dash where the paper prints nothing. --json prints a list of
{table, row, column, paper, ours, verdict, note}; with --grid it prints the list of the grid instead.
"""

import json
from argparse import Namespace, RawDescriptionHelpFormatter
from collections.abc import Sequence
from dataclasses import asdict
from datetime import date
from typing import get_args

from errors import ArgumentParser, read_early, run_command


def read_arguments() -> Namespace:
    """The arguments of the command. Raises UserError."""
    parser = ArgumentParser(prog="tools.tables", description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print JSON")
    form.add_argument("--markdown", action="store_true", help="print Markdown, as in docs/tables.md")
    parser.add_argument("--grid", action="store_true", help="every upsampler in every model")
    return parser.parse_args()


if __name__ == "__main__":  # before the imports below, which take seconds
    read_early(read_arguments)

from tools.markdown import markdown_table
from tools.tables.counts import HOSTS, input_size
from tools.tables.grid import grid
from tools.tables.verdicts import Cell, Verdict, cells

HEADER = """# Our counts beside the paper's

`{command}` printed this on {date}.

"Ours": all learnable numbers that the upsampler adds, or those of the whole model; or multiply-accumulates in G.
"Weights": the same without biases and norms, which is what most of the paper's figures in K count.
Verdicts: **equal**, in all printed digits; **rounding**, equal if rounded in another way; **explained**, equal if
counted in another way; **open**, not reproduced. Figures of the paper without a + are for the whole model. Rows of
upsamplers that the paper does not have stand where the model is the same; their notes name the paper of the figure."""


def cells_text(found: Sequence[Cell], markdown: bool) -> str:
    """The cells as text: one table for each table of the paper, then the number of cells with each verdict."""
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
    """The grid of one model as text. table, variant: keys of HOSTS."""
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
    lines = [[cell.ljust(width) for cell, width in zip(line, widths, strict=True)] for line in (names, *rows)]
    return "\n".join([title, *("  ".join(line).rstrip() for line in lines)])


def _number(value: int | float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,}" if isinstance(value, int) else f"{value:.3f}"


def main() -> None:
    """Run the command."""
    arguments = read_arguments()
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
