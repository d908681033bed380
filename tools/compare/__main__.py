"""Train and score variants of an experiment over several seeds, and say which differences are real.

`python -m tools.compare --cfg FILE --upsamplers A,B --seeds N [KEY=VALUE ...]`

Every run is an ordinary run of train.py. Run the same command again to continue where it stopped. See docs/compare.md.
"""

import shlex
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

from config import parse_with_overrides
from errors import ArgumentParser, UserError, read_early, run_command


def read_arguments() -> Namespace:
    """The arguments of the command. Raises UserError."""
    parser = ArgumentParser(prog="tools.compare", description=__doc__)
    parser.add_argument("--cfg", type=Path, required=True, help="the configuration that all variants share")
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--upsamplers", metavar="A,B,..", help="variants that differ by model.upsampler")
    which.add_argument("--variants", type=Path, metavar="FILE", help="YAML: NAME: [KEY=VALUE, ...], one line a variant")
    parser.add_argument("--seeds", type=int, required=True, metavar="N", help="number of seeds for each variant")
    parser.add_argument("--first-seed", type=int, default=0, metavar="S", help="first seed (default: 0)")
    parser.add_argument("--baseline", metavar="NAME", help="variant to compare with (default: the first)")
    parser.add_argument("--metric", metavar="NAME", help="metric to test (default: evaluation.best)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="default: runs/compare/NAME_OF_CFG")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write report.json here")
    parser.add_argument("--jobs", type=int, default=1, metavar="J", help="runs at a time, on each GPU (default: 1)")
    parser.add_argument(
        "--threads",
        type=int,
        metavar="T",
        help="CPU threads of a run (default: as the runs in DIR; else all, or 1 if J > 1)",
    )
    parser.add_argument("--check", action="store_true", help="print the plan and exit")
    return parse_with_overrides(parser, "for all variants")


if __name__ == "__main__":  # before the imports below, which take seconds
    read_early(read_arguments)

import torch

from runtime.distributed import start_processes
from runtime.run_folder import lock_folder
from tools.compare.comparison import check_environment, choose_threads, count_costs, make_comparison
from tools.compare.report import draw, make_report, markdown
from tools.compare.runs import Comparison, run_all, run_places
from workflow.environment import environment
from workflow.results import check_writable, write_result


def print_plan(comparison: Comparison, costs: dict[str, dict[str, Any]], jobs: int, threads: int) -> None:
    """Print the runs, how many of them are finished, the metric, and the cost of every variant."""
    runs = comparison.runs
    direction = "lower" if comparison.lower_is_better else "higher"
    seeds = len(comparison.seeds)
    print(
        f"compare     {comparison.cfg}: {len(comparison.variants)} variants x {_counted(seeds, 'seed')}, "
        f"one repeat, {_counted(seeds, 'control run')}\n"
        f"runs        {len(runs)}, of which {sum(run.finished for run in runs)} are finished; "
        f"{jobs} at a time, {_counted(threads, 'thread')} each; in {comparison.out}\n"
        f"metric      {comparison.metric}, {direction} is better, at the last step"
    )
    for variant, cost in costs.items():
        note = ", the baseline" if variant == comparison.baseline else ""
        print(f"variant     {variant}{note}: {cost['params']:,} parameters, {cost['macs'] / 1e9:.3f} G MACs")
        if cost["start"]:
            print(f"            pretrained weights: {cost['start']}")
    sys.stdout.flush()


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def main() -> None:
    """Run the command."""
    arguments = read_arguments()

    comparison = make_comparison(arguments)
    out, threads = comparison.out, choose_threads(comparison.out, arguments.jobs, arguments.threads)
    torch.set_num_threads(threads)
    processes = start_processes(comparison.repeat.experiment.system.device)
    machine = {"threads": threads, **environment(processes)}
    check_environment(out, machine)
    runs = comparison.runs
    for run in runs:
        run.check_settings()
    costs = count_costs(comparison)
    print_plan(comparison, costs, arguments.jobs, threads)
    if arguments.check:
        return
    if arguments.json:
        check_writable(arguments.json)
    with lock_folder(out, "another --out", "another comparison", "another --out"):
        write_result(out / "environment.json", machine)
        run_all(runs, run_places(arguments.jobs, processes.device.type), threads)
        command = f"python -m tools.compare {shlex.join(sys.argv[1:])}"
        report = make_report(comparison, costs, {"command": command, "jobs": arguments.jobs, **machine})
        text, paths = markdown(report), [out / name for name in ("report.json", "report.md", "report.png")]
        for path in [*([arguments.json] if arguments.json else []), paths[0]]:
            write_result(path, report)
        try:
            paths[1].write_text(text)
            draw(report, paths[2])
        except OSError as error:
            do = "run the same command again: all runs are kept"
            raise UserError(out, f"cannot be written ({error})", do) from None
    print(f"\n{text}\nwritten to  {', '.join(map(str, paths))}")


if __name__ == "__main__":
    run_command(main)
