"""Check a data set: `python -m tools.check_data --cfg FILE [--split train] [--json [FILE]] [--out PAGE.html]`.

Reads every image and annotation as training would, names every file that is wrong, why, and what to do, and counts
what the data hold. Nothing in the data is changed. Exit code 0: sound; 1: findings that training would survive; 2:
findings that would stop it.
"""

import json
import sys
from argparse import Namespace
from pathlib import Path

from config import parse_with_overrides
from errors import ArgumentParser, UserError, read_early, run_command
from tools.check_data.findings import SPLITS, processors


def read_arguments() -> Namespace:
    """The arguments of the command. Raises UserError."""
    parser = ArgumentParser(prog="tools.check_data", description=__doc__)
    parser.add_argument("--cfg", type=Path, required=True, help="the configuration that names the data")
    parser.add_argument("--split", choices=SPLITS, help="read this split only; default: both")
    parser.add_argument("--workers", type=int, default=processors(), help="processes (default: %(default)s, all)")
    parser.add_argument("--json", nargs="?", const="-", metavar="FILE", help="write the record to FILE, or print it")
    parser.add_argument("--out", type=Path, metavar="PAGE.html", help="write a page with charts and pictures")
    arguments = parse_with_overrides(parser, json_may_be_bare=True)
    if arguments.workers < 1:
        raise UserError(f"--workers {arguments.workers}", "is not a number of processes", "give 1 or more")
    return arguments


if __name__ == "__main__":  # before the imports below, which take seconds
    read_early(read_arguments)

from experiment import load_experiment
from tools.check_data.check import Report, check
from tools.check_data.page import page
from tools.check_data.text import describe


def main() -> None:
    """Run the command."""
    arguments = read_arguments()
    experiment = load_experiment(arguments.cfg, arguments.overrides)
    splits = SPLITS if arguments.split is None else (arguments.split,)
    workers = arguments.workers if arguments.workers > 1 else 0
    for path in (arguments.out, Path(arguments.json) if arguments.json not in (None, "-") else None):
        if path is not None:
            _write(path, "")  # before the work
    report = check(experiment, str(arguments.cfg), splits, workers)
    if arguments.json == "-":
        print(json.dumps(report.record(), indent=2))
    else:
        print(describe(report))
    _write_files(report, arguments.json, arguments.out)
    sys.exit(report.code)


def _write_files(report: Report, record: str | None, out: Path | None) -> None:
    if record not in (None, "-"):
        _write(Path(record), json.dumps(report.record(), indent=2) + "\n")
    if out is not None:
        _write(out, "".join(page(report)))
        print(f"page: {out}", file=sys.stderr)


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(path, f"cannot be written ({error.strerror})", "free space or choose another file") from None


if __name__ == "__main__":
    run_command(main)
