"""A page for runs: `python -m tools.report RUN [RUN ...] [--out PAGE.html]`.

RUN: a run folder of train.py, finished or not. The page shows curves, scores, classes, cost, the settings that differ,
the environment and pictures; several runs stand side by side, and the first is the one that others are compared with.
Without --out the page is report.html in the folder of the first run.
"""

from argparse import Namespace
from pathlib import Path

from errors import ArgumentParser, read_early, run_command


def read_arguments() -> Namespace:
    """The arguments of the command. Raises UserError."""
    parser = ArgumentParser(prog="tools.report", description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folders of runs")
    parser.add_argument("--out", type=Path, metavar="PAGE.html", help="the page to write")
    return parser.parse_args()


if __name__ == "__main__":  # before the imports below, which take seconds
    read_early(read_arguments)

from tools.pages.html import write_page
from tools.report.page import page
from tools.report.runs import read_runs
from workflow.results import check_writable


def main() -> None:
    """Run the command."""
    arguments = read_arguments()
    runs = read_runs(arguments.runs)
    out = arguments.out or arguments.runs[0] / "report.html"
    check_writable(out)
    write_page(out, page(runs))
    print(f"page: {out}")


if __name__ == "__main__":
    run_command(main)
