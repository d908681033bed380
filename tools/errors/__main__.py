"""See what is wrong: `python -m tools.errors --checkpoint RUN [--json [FILE]] [--out PAGE.html] [KEY=VALUE ...]`.

RUN: a checkpoint, a run folder, a file of converted weights, a published model or an exported file, as for eval.py.
Predicts the validation set, says what kinds of errors the model makes, and writes a page with numbers and the 40 worst
images. --json prints the record, or writes it to FILE. Without --out the page is RUN/errors.html for a run folder, else
errors.html.
"""

import json
import os
from argparse import Namespace
from pathlib import Path

from config import parse_with_overrides
from errors import ArgumentParser, UserError, read_early, run_command
from workflow.arguments import add_model


def read_arguments() -> Namespace:
    """The arguments of the command. Raises UserError."""
    parser = ArgumentParser(prog="tools.errors", description=__doc__)
    add_model(parser, "--checkpoint", "--onnx", metavar="RUN")
    parser.add_argument("--which", choices=["best", "last"], default="best", help="checkpoint of a run folder")
    parser.add_argument("--cfg", type=Path, help="default: the configuration of the checkpoint")
    parser.add_argument("--json", nargs="?", const="-", metavar="FILE", help="write the record to FILE, or print it")
    parser.add_argument("--out", type=Path, metavar="PAGE.html", help="the page to write")
    return parse_with_overrides(parser, json_may_be_bare=True)


if __name__ == "__main__":  # before the imports below, which take seconds
    read_early(read_arguments)

from runtime.distributed import start_processes
from tools.errors.analysis import analyse, worst_pictures
from tools.errors.page import page
from tools.errors.text import describe
from tools.pages.html import write_page
from workflow.results import check_writable, without_nan, write_result
from workflow.trained import find_checkpoint, keep_memory, load_predicting


def main() -> None:
    """Run the command."""
    arguments = read_arguments()
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError("torchrun", "tools.errors is for one process", "start it as python -m tools.errors")
    path = find_checkpoint(arguments.checkpoint, arguments.which)
    experiment, model, step = load_predicting(path, arguments.cfg, arguments.overrides)
    out = arguments.out or (
        arguments.checkpoint / "errors.html" if arguments.checkpoint.is_dir() else Path("errors.html")
    )
    for file in (out, *([Path(arguments.json)] if arguments.json not in (None, "-") else [])):
        check_writable(file)  # before the work
    keep_memory(experiment)
    dataset = experiment.data.build("val")
    processes = start_processes(experiment.system.device)
    findings = analyse(model, dataset, experiment, processes, path, step)
    write_page(out, page(findings.record, worst_pictures(findings, model, dataset, experiment, processes)))
    if arguments.json == "-":
        print(json.dumps(without_nan(findings.record), indent=2))
        return
    if arguments.json:
        write_result(Path(arguments.json), findings.record)
    print(describe(findings.record))
    print(f"page: {out}")


if __name__ == "__main__":
    run_command(main)
