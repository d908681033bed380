"""Compare all upsamplers in several models, over several seeds, and write BOARD.md with verdicts, costs and charts.

`python -m tools.board [--board FILE] [--only HOST] [--rows A,B] [--jobs J] [--power | --measure | --check | ..]`

A row, an upsampler in a model, is kept as soon as its seeds are done. Run the same command again to continue where it
stopped. --power comes first: it fixes what the board can show. See docs/boards.md.
"""

import os
from argparse import Namespace
from pathlib import Path
from typing import Any

from errors import ArgumentParser, UserError, read_early, run_command

BOARD = Path("configs/board/small.yaml")


def read_arguments() -> Namespace:
    """The arguments of the command. Raises UserError."""
    parser = ArgumentParser(prog="tools.board", description=__doc__)
    parser.add_argument("--board", type=Path, default=BOARD, metavar="FILE", help=f"default: {BOARD}")
    parser.add_argument("--only", metavar="A,B", help="some of the hosts (default: all)")
    parser.add_argument("--rows", metavar="A,B", help="some of the upsamplers (default: all that are not finished)")
    parser.add_argument(
        "--jobs", type=int, metavar="J", help="runs at a time, on each GPU (default: 1; CPU: its cores)"
    )
    parser.add_argument("--root", type=Path, default=Path(), help="where the page and its results lie (default: here)")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--power", action="store_true", help="only fix what the board can show, before its runs")
    what.add_argument("--measure", action="store_true", help="only measure some steps of every row, for --check")
    what.add_argument("--check", action="store_true", help="print what is left and how long it takes, and exit")
    what.add_argument("--report", action="store_true", help="only write the page again")
    what.add_argument("--again", action="store_true", help="do kept rows once more and compare all digits")
    parser.add_argument("--gpus", type=int, metavar="N", help="with --check: as if this machine had N GPUs")
    return parser.parse_args()


if __name__ == "__main__":  # before the imports below, which take seconds
    read_early(read_arguments)

import torch

from runtime.distributed import start_processes
from storage import write_text
from tools.board.chart import draw
from tools.board.costs import read_costs
from tools.board.definition import Board, Column, choose, read_board
from tools.board.forecast import forecast
from tools.board.judge import judge_board
from tools.board.page import page, summary
from tools.board.power import check_plan, make_plan, read_plan
from tools.board.rows import THREADS, do_rows, read_rows, repeat_row
from tools.board.steps import measure_steps
from tools.compare.runs import run_places
from workflow.environment import environment
from workflow.results import write_result


def write_board(board: Board, columns: list[Column], root: Path, command: str) -> None:
    """Write the page, board.json and the charts from what is kept. Raises UserError if that fails."""
    judged = judge_board(columns, [read_rows(column) for column in columns])
    measured, results = read_costs(board.costs), root / board.results
    plan = read_plan(results / "plan.json")
    charts = {column.column.name: draw(column, measured[0] if measured else None) for column in judged}
    drawn = {name: chart for name, chart in charts.items() if chart is not None}
    text = page(board, judged, plan, measured, drawn.keys(), command)
    write_result(results / "board.json", summary(judged, plan))
    try:
        (root / board.page).parent.mkdir(parents=True, exist_ok=True)
        for name, chart in drawn.items():
            write_text(results / f"{name}.svg", chart)
        write_text(root / board.page, text)
    except OSError as error:
        raise UserError(root / board.page, f"cannot be written ({error})", "name another --root") from None


def machine_of(column: Column) -> tuple[str, dict[str, Any]]:
    """The type of the device that a host's runs use here, and device and libraries for the record."""
    processes = start_processes(column.comparison.repeat.experiment.system.device)
    return processes.device.type, {"threads": THREADS, **environment(processes)}


def places_of(device: str, jobs: int | None) -> list[dict[str, str]]:
    """Where runs go on at a time. jobs: on each GPU, or on the CPU; None: one, or one for each core."""
    return run_places(jobs or (1 if device == "cuda" else min(8, os.cpu_count() or 1)), device)


def main() -> None:
    """Run the command."""
    arguments = read_arguments()
    for option in ("jobs", "gpus"):
        if (value := getattr(arguments, option)) is not None and value < 1:
            raise UserError(f"--{option} {value}", "is less than 1", "give 1 or more")
    board, root = read_board(arguments.board), arguments.root
    command = "python -m tools.board" + (f" --board {arguments.board}" if arguments.board != BOARD else "")
    torch.set_num_threads(THREADS)
    chosen = choose("--only", arguments.only, list(board.hosts))
    columns = [Column(board, name, root, command) for name in board.hosts]
    plan_path = root / board.results / "plan.json"

    if arguments.power:
        write_result(plan_path, make_plan(columns))
    here = [column for column in columns if column.name in chosen]
    steps = root / board.results / "steps.json"
    if arguments.measure:
        for column in here:
            measure_steps(column, steps, machine_of(column)[1]["device"])
        return
    if arguments.check:
        places = (arguments.jobs or 1) * arguments.gpus if arguments.gpus else None
        count = places or len(places_of(machine_of(here[0])[0], arguments.jobs))
        print(forecast(here, [read_rows(column) for column in here], count, steps, board.speed))
        return
    write_board(board, columns, root, command)
    if not arguments.report and not arguments.power:
        check_plan(plan_path, columns, command)
        rows = choose("--rows", arguments.rows, list(dict.fromkeys(name for column in here for name in column.rows)))
        equal = []
        for column in here:
            names = [name for name in rows if name in column.rows]
            device, machine = machine_of(column)
            places = places_of(device, arguments.jobs)
            if arguments.again:
                equal += [repeat_row(column, name, places, machine) for name in names]
            else:
                do_rows(column, names, places, machine, lambda: write_board(board, columns, root, command))
        if not all(equal):
            raise UserError("--again", "some numbers differ", "compare commits and machines at the end of the page")
    print(f"written to  {root / board.page}")


if __name__ == "__main__":
    run_command(main)
