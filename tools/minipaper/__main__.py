"""The paper's comparisons at the scale of a CPU, and RESULTS.md, which is generated from what they gave.

`python -m tools.minipaper [--only NAME] [--check] [--report] [--jobs J]`

Each experiment of tools/minipaper/experiments.yaml is one call of tools.compare; the same command again goes on where
it stopped. Finished ones lie in results/ and are left alone as long as their definition is the same.
"""

import os
from pathlib import Path

from config import read_config, validate
from errors import ArgumentParser, UserError, run_command, suggest
from tools.minipaper.experiments import EXPERIMENTS, MiniPaper, keep_result, read_result, run_compare, write_page
from tools.minipaper.plan import print_plan


def main() -> None:
    """The command."""
    parser = ArgumentParser(prog="tools.minipaper", description=__doc__)
    parser.add_argument("--only", metavar="NAME", help="one experiment (default: all that are not finished)")
    parser.add_argument("--check", action="store_true", help="print the plan and exit")
    parser.add_argument("--report", action="store_true", help="only write RESULTS.md again")
    parser.add_argument("--jobs", type=int, default=min(8, os.cpu_count() or 1), metavar="J", help="runs at a time")
    parser.add_argument("--experiments", type=Path, default=EXPERIMENTS, metavar="FILE", help=f"default: {EXPERIMENTS}")
    parser.add_argument("--root", type=Path, default=Path(), help="where RESULTS.md and results/ lie (default: here)")
    given = parser.parse_args()

    paper = validate(MiniPaper, read_config(given.experiments), given.experiments)
    names = list(paper.experiments)
    if given.only is not None and given.only not in names:
        raise UserError(f"--only {given.only}", "no such experiment", suggest(given.only, names))
    if given.jobs < 1:
        raise UserError(f"--jobs {given.jobs}", "is less than 1", "give 1 or more")
    comparisons = {name: paper.comparison(name) for name in names}

    def finished(name: str) -> bool:
        path = given.root / f"results/{name}.json"
        return read_result(path, comparisons[name], paper.experiments[name].metrics) is not None

    if given.check:
        print_plan(comparisons, {name for name in names if finished(name)}, given.jobs)
        return
    write_page(paper, comparisons, given.root)
    for name in [] if given.report else [given.only] if given.only else names:
        if finished(name):
            print(f"{name}: finished before")
            continue
        run_compare(paper.words(name, given.jobs))
        keep_result(comparisons[name].out, given.root / "results", name)
        write_page(paper, comparisons, given.root)
    print(f"written to  {given.root / 'RESULTS.md'}")


if __name__ == "__main__":
    run_command(main)
