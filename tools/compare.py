"""Train and score variants of an experiment over several seeds, and say which differences are real.

`python -m tools.compare --cfg FILE --upsamplers A,B --seeds N [KEY=VALUE ...]`

Every run is an ordinary run of train.py; the same command again goes on where it stopped. See docs/compare.md.
"""

import json
import os
import re
import shlex
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

import torch

from config import read_config
from errors import ArgumentParser, UserError, run_command, suggest
from eval import check_writable, write_result
from experiment import Experiment, load_experiment
from runtime.distributed import start_processes
from runtime.log import environment
from runtime.run_folder import lock_folder
from tools.compare_report import draw, make_report, markdown
from tools.compare_runs import Comparison, run_all
from tools.complexity import complexity, padded_input
from upsamplers import NAMES

MOST = 10_000  # of seeds, jobs, threads
OWN_KEYS = ("seed", "run_name", "output_dir")


def read_variants(path: Path) -> dict[str, list[str]]:
    """A YAML mapping from names to lists of KEY=VALUE. Raises UserError for anything else."""
    variants = read_config(path)
    for name, words in variants.items():
        if not isinstance(words, list) or not all(isinstance(word, str) for word in [name, *words]):
            raise UserError(f"{path}: {name}", "is not a list of KEY=VALUE", f"write {name}: [model.upsampler=carafe]")
    if not variants:
        raise UserError(path, "names no variant", "write NAME: [KEY=VALUE, ...] lines")
    return variants


def upsampler_variants(names: str) -> dict[str, list[str]]:
    """The variants that `--upsamplers A,B` is short for. Raises UserError for an unknown or repeated name."""
    variants: dict[str, list[str]] = {}
    for name in names.split(","):
        if name not in NAMES:
            raise UserError(f"--upsamplers {name or names}", "no such upsampler", suggest(name, list(NAMES)))
        if name in variants:
            raise UserError(f"--upsamplers {name}", "is named twice", "name each once")
        variants[name] = [f"model.upsampler={name}"]
    return variants


def make_comparison(given: Namespace) -> Comparison:
    """The comparison that the arguments describe; reads no data. Raises UserError for anything wrong with them."""
    for option in ("seeds", "jobs", "threads"):
        if (value := getattr(given, option)) is not None and not 1 <= value <= MOST:
            raise UserError(f"--{option} {value}", "is out of range", f"give 1 to {MOST}")
    if not 0 <= given.first_seed <= MOST:
        raise UserError(f"--first-seed {given.first_seed}", "is out of range", f"give 0 to {MOST}")
    variants = read_variants(given.variants) if given.variants else upsampler_variants(given.upsamplers)
    baseline = given.baseline or next(iter(variants))
    if baseline not in variants:
        raise UserError(f"--baseline {baseline}", "no such variant", suggest(baseline, list(variants)))
    experiments = {name: _load(given, name, words) for name, words in variants.items()}
    metric, lower_is_better = experiments[baseline].best_metric()
    if given.metric:
        metric, lower_is_better = given.metric, _lower_is_better(experiments[baseline], given.metric, "--metric")
    for name, experiment in experiments.items():
        _lower_is_better(experiment, metric, f"variant {name}: metric")
    out = given.out or Path("runs/compare") / given.cfg.stem
    seeds = range(given.first_seed, given.first_seed + given.seeds)
    return Comparison(given.cfg, given.overrides, variants, baseline, seeds, out, metric, lower_is_better)


def _load(given: Namespace, name: str, words: list[str]) -> Experiment:
    if not re.fullmatch(r"\w[\w.+-]*", name):
        raise UserError(f"variant {name!r}", "cannot name a folder", "use letters, digits and _ . + -")
    for word in [*given.overrides, *words]:
        if (key := word.partition("=")[0]) in OWN_KEYS:
            raise UserError(f"{key} in {word}", "is set for every run by this command", "use --seeds and --out")
    try:
        return load_experiment(given.cfg, [*given.overrides, *words])
    except UserError as error:
        where, what, do = error.args
        raise UserError(f"variant {name}: {where}", what, do) from None


def _lower_is_better(experiment: Experiment, metric: str, where: str) -> bool:
    metrics = experiment.build_metrics()
    names = [name for item in metrics for name in item.names]
    if metric not in names:
        raise UserError(
            f"{where} {metric}", f"is no metric of task {experiment.data.info.task}", suggest(metric, names)
        )
    return any(metric in item.lower_is_better for item in metrics)


def count_costs(comparison: Comparison) -> dict[str, dict[str, Any]]:
    """Parameters and MACs of every variant. Raises UserError for a model that cannot be built."""
    costs = {}
    for variant, (run, *_) in comparison.paired.items():
        try:
            model = run.experiment.build_model()
        except UserError as error:
            where, what, do = error.args
            raise UserError(f"variant {variant}: {where}", what, do) from None
        costs[variant] = complexity(model, padded_input(run.experiment, model))
    return costs


def choose_threads(out: Path, jobs: int, threads: int | None) -> int:
    """Of each run: as asked for, else as in the runs that are there, else 1 for jobs side by side or all cores."""
    stored = _read_environment(out)
    if threads is None and stored is not None:
        return int(stored["threads"])
    return threads or (1 if jobs > 1 else torch.get_num_threads())


def check_environment(out: Path, now: dict[str, Any]) -> None:
    """Raise UserError if the runs in `out` were made by other software, on another device or with other threads.

    All of these change the last digits, and with them what a seed leads to.
    """
    before = _read_environment(out) or now
    for key, value in now.items():
        if before[key] != value:
            advice = "choose another --out, or what there was before"
            raise UserError(f"{key} {value}", f"the runs in {out} were made with {before[key]}", advice)


def _read_environment(out: Path) -> dict[str, Any] | None:
    path = out / "environment.json"
    if not os.path.exists(path) or not any(out.glob("*/*/log.jsonl")):  # what failed at its start fixes nothing
        return None
    try:
        record = json.loads(path.read_text())
        known = {key: record[key] for key in ("threads", "python", "torch", "device", "processes")}
        if type(known["threads"]) is int and 1 <= known["threads"] <= MOST:
            return known
    except (OSError, ValueError, KeyError, TypeError):
        pass
    raise UserError(path, "is damaged", "choose another --out, or remove the folder")


def print_plan(comparison: Comparison, costs: dict[str, dict[str, Any]], jobs: int, threads: int) -> None:
    """What there is to do, and what is done."""
    runs = comparison.runs
    direction = "lower" if comparison.lower_is_better else "higher"
    print(
        f"compare     {comparison.cfg}: {len(comparison.variants)} variants x {len(comparison.seeds)} seeds, "
        f"one repeat, {len(comparison.seeds)} control runs\n"
        f"runs        {len(runs)}, of which {sum(run.finished for run in runs)} are finished; "
        f"{jobs} at a time, threads of each: {threads}; in {comparison.out}\n"
        f"metric      {comparison.metric}, {direction} is better, at the last step"
    )
    for variant, cost in costs.items():
        note = ", the baseline" if variant == comparison.baseline else ""
        print(f"variant     {variant}{note}: {cost['params']:,} parameters, {cost['macs'] / 1e9:.3f} G MACs")
    sys.stdout.flush()


def main() -> None:
    """The command."""
    parser = ArgumentParser(prog="tools.compare", description=__doc__)
    parser.add_argument("--cfg", type=Path, required=True)
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--upsamplers", metavar="A,B,..", help="variants that differ by model.upsampler")
    which.add_argument("--variants", type=Path, metavar="FILE", help="YAML: NAME: [KEY=VALUE, ...], one line a variant")
    parser.add_argument("--seeds", type=int, required=True, metavar="N", help="so many seeds for each variant, from 0")
    parser.add_argument("--first-seed", type=int, default=0, metavar="S", help="from S, for a test on fresh runs")
    parser.add_argument("--baseline", metavar="NAME", help="what the others are compared with (default: the first)")
    parser.add_argument("--metric", metavar="NAME", help="the number to test (default: that of the best checkpoint)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="default: runs/compare/NAME_OF_CFG")
    parser.add_argument("--json", type=Path, metavar="FILE", help="the report as JSON, also here")
    parser.add_argument("--jobs", type=int, default=1, metavar="J", help="runs at a time (default: 1)")
    parser.add_argument(
        "--threads", type=int, metavar="T", help="CPU threads of a run (default: as before, else all, 1 if J > 1)"
    )
    parser.add_argument("--check", action="store_true", help="print the plan and exit")
    parser.add_argument("overrides", nargs="*", default=[], metavar="KEY=VALUE", help="for all variants")
    given = parser.parse_intermixed_args()

    comparison = make_comparison(given)
    out, threads = comparison.out, choose_threads(comparison.out, given.jobs, given.threads)
    torch.set_num_threads(threads)
    processes = start_processes(comparison.repeat.experiment.system.device)
    machine = {"threads": threads, **environment(processes)}
    check_environment(out, machine)
    runs = comparison.runs
    for run in runs:
        run.check_settings()
    costs = count_costs(comparison)
    print_plan(comparison, costs, given.jobs, threads)
    if given.check:
        return
    if given.json:
        check_writable(given.json)
    with lock_folder(out, "another --out", "another comparison", "another --out"):
        write_result(out / "environment.json", machine)
        run_all(runs, given.jobs, threads)
        command = f"python -m tools.compare {shlex.join(sys.argv[1:])}"
        report = make_report(comparison, costs, {"command": command, "jobs": given.jobs, **machine})
        text, places = markdown(report), [out / name for name in ("report.json", "report.md", "report.png")]
        for place in [*([given.json] if given.json else []), places[0]]:
            write_result(place, report)
        try:
            places[1].write_text(text)
            draw(report, places[2])
        except OSError as error:
            do = "run the same command again: all runs are kept"
            raise UserError(out, f"cannot be written ({error})", do) from None
    print(f"\n{text}\nwritten to  {', '.join(map(str, places))}")


if __name__ == "__main__":
    run_command(main)
