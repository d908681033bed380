"""The comparison that the arguments of tools.compare ask for: its variants, their costs, and its environment."""

import json
import os
import re
from argparse import Namespace
from pathlib import Path
from typing import Any

import torch

from config import read_config
from errors import UserError, suggest
from experiment import Experiment, load_experiment
from models.cost import complexity
from tools.compare.runs import Comparison
from upsamplers import NAMES

MAX_COUNT = 10_000  # of seeds, jobs, threads
OWN_KEYS = ("seed", "run_name", "output_dir")  # keys that tools.compare sets for every run


def read_variants(path: Path) -> dict[str, list[str]]:
    """Read a YAML mapping from names to lists of KEY=VALUE. Raises UserError for anything else."""
    variants = read_config(path)
    for name, overrides in variants.items():
        if not isinstance(overrides, list) or not all(isinstance(item, str) for item in [name, *overrides]):
            raise UserError(f"{path}: {name}", "is not a list of KEY=VALUE", f"write {name}: [model.upsampler=carafe]")
    if not variants:
        raise UserError(path, "names no variant", "write NAME: [KEY=VALUE, ...] lines")
    return variants


def upsampler_variants(names: str) -> dict[str, list[str]]:
    """The variants of `--upsamplers A,B`. Raises UserError for an unknown or repeated name."""
    variants: dict[str, list[str]] = {}
    for name in names.split(","):
        if name not in NAMES:
            raise UserError(f"--upsamplers {name or names}", "no such upsampler", suggest(name, list(NAMES)))
        if name in variants:
            raise UserError(f"--upsamplers {name}", "is named twice", "name each once")
        variants[name] = [f"model.upsampler={name}"]
    return variants


def make_comparison(arguments: Namespace) -> Comparison:
    """Make the comparison that the arguments describe; reads no images. Raises UserError if they are invalid."""
    for option in ("seeds", "jobs", "threads"):
        if (value := getattr(arguments, option)) is not None and not 1 <= value <= MAX_COUNT:
            raise UserError(f"--{option} {value}", "is out of range", f"give 1 to {MAX_COUNT}")
    if not 0 <= arguments.first_seed <= MAX_COUNT:
        raise UserError(f"--first-seed {arguments.first_seed}", "is out of range", f"give 0 to {MAX_COUNT}")
    variants = read_variants(arguments.variants) if arguments.variants else upsampler_variants(arguments.upsamplers)
    baseline = arguments.baseline or next(iter(variants))
    if baseline not in variants:
        raise UserError(f"--baseline {baseline}", "no such variant", suggest(baseline, list(variants)))
    experiments = {name: _load(arguments, name, overrides) for name, overrides in variants.items()}
    metric, lower = experiments[baseline].best_metric()
    if arguments.metric:
        metric = arguments.metric
        lower = lower_is_better(experiments[baseline], metric, "--metric")
    for name, experiment in experiments.items():
        lower_is_better(experiment, metric, f"variant {name}: metric")
    out = arguments.out or Path("runs/compare") / arguments.cfg.stem
    seeds = range(arguments.first_seed, arguments.first_seed + arguments.seeds)
    return Comparison(arguments.cfg, arguments.overrides, variants, baseline, seeds, out, metric, lower)


def _load(arguments: Namespace, name: str, overrides: list[str]) -> Experiment:
    if not re.fullmatch(r"\w[\w.+-]*", name):
        raise UserError(f"variant {name!r}", "cannot name a folder", "use letters, digits and _ . + -")
    for item in [*arguments.overrides, *overrides]:
        if (key := item.partition("=")[0]) in OWN_KEYS:
            raise UserError(f"{key} in {item}", "is set for every run by this command", "use --seeds and --out")
    try:
        experiment = load_experiment(arguments.cfg, [*arguments.overrides, *overrides]).in_steps()
    except UserError as error:
        where, what, do = error.args
        raise UserError(f"variant {name}: {where}", what, do) from None
    if experiment.evaluation.patience is not None:
        what = "lets runs end at steps of their own, and then their last scores do not compare"
        raise UserError(f"variant {name}: evaluation.patience", what, "add evaluation.patience=null")
    return experiment


def lower_is_better(experiment: Experiment, metric: str, where: str) -> bool:
    """Whether lower is better. where: for the UserError about a metric that the task does not have."""
    metrics = experiment.build_metrics()
    names = [name for item in metrics for name in item.names]
    if metric not in names:
        raise UserError(
            f"{where} {metric}", f"is not a metric of task {experiment.data.info.task}", suggest(metric, names)
        )
    return any(metric in item.lower_is_better for item in metrics)


def count_costs(comparison: Comparison) -> dict[str, dict[str, Any]]:
    """Count parameters and MACs of every variant, and say what it starts from, under "start", if its runs are to start.

    Raises UserError for a model that cannot be built, or that does not fit the weights that it is to start from.
    """
    costs = {}
    for variant, (run, *_) in comparison.paired.items():
        experiment, starts = run.experiment, not (run.begun or run.finished)
        try:
            model = experiment.build_model(pretrained=starts)
        except UserError as error:
            where, what, do = error.args
            raise UserError(f"variant {variant}: {where}", what, do) from None
        costs[variant] = complexity(model, experiment.padded_input(model))
        costs[variant]["start"] = experiment.describe_weights(model.left_out) if starts else None
    return costs


def choose_threads(out: Path, jobs: int, threads: int | None) -> int:
    """Threads of each run: `threads`, else those of the runs in `out`, else 1 if `jobs` > 1, else PyTorch's default."""
    stored = _read_environment(out)
    if threads is None and stored is not None:
        return int(stored["threads"])
    return threads or (1 if jobs > 1 else torch.get_num_threads())


def check_environment(out: Path, now: dict[str, Any]) -> None:
    """Raise UserError if the runs in `out` were made by other software, on another device or with other threads.

    All of these change the last digits, and so the result of a seed.
    """
    before = _read_environment(out) or now
    for key, value in now.items():
        if before[key] != value:
            advice = "choose another --out, or use the same as before"
            raise UserError(f"{key} {value}", f"the runs in {out} were made with {before[key]}", advice)


def _read_environment(out: Path) -> dict[str, Any] | None:
    path = out / "environment.json"
    if not os.path.exists(path) or not any(
        out.glob("*/*/log.jsonl")
    ):  # runs that failed before the first step do not count
        return None
    try:
        record = json.loads(path.read_text())
        known = {key: record[key] for key in ("threads", "python", "torch", "device", "processes")}
        if type(known["threads"]) is int and 1 <= known["threads"] <= MAX_COUNT:
            return known
    except (OSError, ValueError, KeyError, TypeError):
        pass
    raise UserError(path, "is damaged", "choose another --out, or remove the folder")
