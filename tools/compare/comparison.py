"""What tools.compare is asked to do: its variants, their costs, and the machine that its runs need."""

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
        costs[variant] = complexity(model, run.experiment.padded_input(model))
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
