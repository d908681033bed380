"""Do a list of experiments, by default the paper's comparisons for a CPU, and write a page from their results.

`python -m tools.minipaper [--experiments FILE] [--only NAME] [--check] [--report] [--jobs J]`

Each experiment of the list (tools/minipaper/experiments.yaml) is one call of tools.compare. Run the same command again
to continue where it stopped. Results of finished experiments are kept as long as the definition is the same.
"""

import os
from argparse import Namespace
from pathlib import Path

from config import read_config, validate
from errors import ArgumentParser, UserError, read_early, run_command, suggest

EXPERIMENTS = Path(__file__).parent / "experiments.yaml"


def read_arguments() -> Namespace:
    """The arguments of the command. Raises UserError."""
    parser = ArgumentParser(prog="tools.minipaper", description=__doc__)
    parser.add_argument("--only", metavar="NAME", help="one experiment (default: all that are not finished)")
    parser.add_argument("--check", action="store_true", help="print the plan and exit")
    parser.add_argument("--report", action="store_true", help="only write the page again")
    parser.add_argument("--jobs", type=int, default=min(8, os.cpu_count() or 1), metavar="J", help="runs at a time")
    parser.add_argument("--experiments", type=Path, default=EXPERIMENTS, metavar="FILE", help=f"default: {EXPERIMENTS}")
    parser.add_argument("--root", type=Path, default=Path(), help="where the page and its results lie (default: here)")
    return parser.parse_args()


if __name__ == "__main__":  # before the imports below, which take seconds
    read_early(read_arguments)

from tools.minipaper.experiments import MiniPaper, keep_result, read_result, run_compare, write_page
from tools.minipaper.plan import print_plan


def main() -> None:
    """Run the command."""
    arguments = read_arguments()

    paper = validate(MiniPaper, read_config(arguments.experiments), arguments.experiments)
    names = list(paper.experiments)
    listed = f" --experiments {arguments.experiments}" if arguments.experiments != EXPERIMENTS else ""
    command = f"python -m tools.minipaper{listed}"
    if arguments.only is not None and arguments.only not in names:
        raise UserError(f"--only {arguments.only}", "no such experiment", suggest(arguments.only, names))
    if arguments.jobs < 1:
        raise UserError(f"--jobs {arguments.jobs}", "is less than 1", "give 1 or more")
    comparisons = {name: paper.comparison(name) for name in names}

    def is_finished(name: str) -> bool:
        path = arguments.root / paper.results / f"{name}.json"
        return read_result(path, comparisons[name], paper.experiments[name].metrics) is not None

    if arguments.check:
        print_plan(comparisons, {name for name in names if is_finished(name)}, arguments.jobs)
        return
    write_page(paper, comparisons, arguments.root, command)
    for name in [] if arguments.report else [arguments.only] if arguments.only else names:
        if is_finished(name):
            print(f"{name}: finished before")
            continue
        run_compare(paper.compare_arguments(name, arguments.jobs))
        keep_result(comparisons[name].out, arguments.root / paper.results, name)
        write_page(paper, comparisons, arguments.root, command)
    print(f"written to  {arguments.root / paper.page}")


if __name__ == "__main__":
    run_command(main)
