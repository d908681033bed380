"""What the log, a terminal and `train.py --check` say about a run before its first step."""

import os
from collections.abc import Sequence
from typing import Protocol

import torch

from datasets.base import DenseDataset
from datasets.loading import BatchLayout
from experiment import Experiment
from models.base import DenseModel
from runtime.changes import Change
from runtime.distributed import Processes
from runtime.log import RunLog
from workflow.environment import environment


class StartedRun(Protocol):
    """What is told of train.py's `Run`."""

    experiment: Experiment
    processes: Processes
    layout: BatchLayout
    model: DenseModel
    optimizer: torch.optim.Optimizer
    resumed: bool

    @property
    def training_set(self) -> DenseDataset:
        """The images to learn from."""

    @property
    def validation_set(self) -> DenseDataset:
        """The images to score on."""


def announce(log: RunLog, run: StartedRun, changed: Sequence[Change]) -> None:
    """Log the step, the changed settings and warnings; for a new run also what the data hold and what it starts from.

    On a terminal, first print what the run is. Every process calls it; only the main one counts the data.
    """
    experiment = run.experiment
    if log.terminal.has_bar:
        for line in header(run):
            log.print(line)
    log.print(f"{'resuming' if run.resumed else 'starting'} {experiment.run_folder} at step {log.step} of {log.steps}")
    notes = [f"changed: {change}" for change in changed]
    if log.processes.is_main and not run.resumed:
        notes += data_lines(run.training_set, run.validation_set)
        notes += [*experiment.optimizer.warnings(run.model), *worker_warnings(experiment.system.workers)]
        notes.append(f"pretrained weights: {experiment.describe_weights(run.model.left_out)}")
    for note in notes:
        log.add_note(note)


def worker_warnings(workers: int) -> list[str]:
    """One line if there are more processes that read images than cores."""
    cores = len(os.sched_getaffinity(0))
    what = f"{workers} processes read images, and there are {cores} cores; fewer may be faster"
    return [f"warning: system.workers: {what}"] if workers > cores else []


def header(run: StartedRun) -> list[str]:
    """The run, its device, data, size and course, and where to look: for a terminal."""
    experiment, machine = run.experiment, environment(run.processes)
    shown = f"tensorboard --logdir {experiment.output_dir}; " if "tensorboard" in experiment.logging.sinks else ""
    processes = f"{machine['processes']} process{'es' if machine['processes'] > 1 else ''}"
    facts = {
        **run_facts(run),
        "device": f"{machine['device']}, {processes}, {experiment.precision}",
        "parameters": f"{sum(value.numel() for value in run.model.parameters()) / 1e6:.2f} M",
        "look": f"{shown}pictures in {experiment.run_folder / 'pictures'}; Ctrl-C saves and stops",
    }
    order = ("run", "device", "data", "parameters", "batch", "steps", "base LR", "look")
    return [f"{name:11} {facts[name]}" for name in order]


def run_facts(run: StartedRun) -> dict[str, str]:
    """What `header` and `train.py --check` both say: the run, its data, batch, steps and learning rates."""
    experiment, layout = run.experiment, run.layout
    info, model, images = experiment.data.info, experiment.model, len(run.training_set)
    classes = f", {info.num_classes} classes" if info.classes else ""
    rates = list(dict.fromkeys(f"{group['lr']:g}" for group in run.optimizer.param_groups))
    evaluations = -(-experiment.steps // experiment.evaluation.every)
    return {
        "run": f"{experiment.run_folder}: {model.name} with {model.upsampler.name}, task {info.task}",
        "data": f"{info.name}: {images} training and {len(run.validation_set)} validation images{classes}",
        "batch": f"{layout.total} = {layout.per_process} images x {layout.accumulation} rounds x "
        f"{layout.world_size} processes",
        "steps": f"{experiment.steps} ({experiment.steps * layout.total / images:.1f} epochs), "
        f"{evaluations} evaluations",
        "base LR": f"{', '.join(rates)} in {len(run.optimizer.param_groups)} parameter groups",
    }


def data_lines(training_set: DenseDataset, validation_set: DenseDataset) -> list[str]:
    """Count what each split holds. Returns a summary of each, its warnings, and which entries are skipped.

    Raises UserError if a split has nothing to learn from or to score.
    """
    lines = []
    for name, dataset in (("training data", training_set), ("validation data", validation_set)):
        survey = dataset.survey()
        lines.append(f"{name}: {len(dataset)} images, {survey.summary()}")
        lines += [f"warning: {name}: {warning}" for warning in survey.warnings]
        lines += [f"skipped: {line}" for line in dataset.skipped]
    return lines
