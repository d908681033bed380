"""`train.py --check`: do one training step and one prediction, print the plan."""

import time
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from datasets.base import DenseDataset
from datasets.loading import BatchLayout, next_batches, single_batch
from errors import UserError
from experiment import Experiment
from models.base import DenseModel
from models.cost import complexity, describe, shapes_only
from runtime.checkpoint import Checkpoints
from runtime.distributed import Processes
from runtime.schedule import set_learning_rate
from runtime.sinks import require_installed
from runtime.state import DIVERGED
from structures import Batch
from workflow.announce import data_lines
from workflow.balance import balance_lines


class PlannedRun(Protocol):
    """What a plan needs of train.py's `Run`, which has not resumed from any checkpoint."""

    experiment: Experiment
    processes: Processes
    checkpoints: Checkpoints
    layout: BatchLayout
    model: DenseModel
    ema: AveragedModel | None
    optimizer: torch.optim.Optimizer
    batches: Iterator[Batch]

    @property
    def training_set(self) -> DenseDataset:
        """The images to learn from."""

    @property
    def validation_set(self) -> DenseDataset:
        """The images to score on."""


TrainStep = Callable[[Any, list[Batch]], tuple[dict[str, Tensor], Tensor]]  # of train.py


def print_plan(run: PlannedRun, train_step: TrainStep) -> None:
    """Do the first training step of the run and predict an image, then print the plan. Nothing is written.

    Raises UserError for whatever would stop the training at its first step.
    """
    experiment, processes, layout = run.experiment, run.processes, run.layout
    require_installed(experiment.logging.sinks)
    data = data_lines(run.training_set, run.validation_set) if processes.is_main else []
    data += balance_lines(run.model, run.training_set)
    with shapes_only():
        plain = experiment.build_model(pretrained=False)  # not compiled, not distributed
    counts = complexity(plain, experiment.padded_input(plain))
    rates = [group["lr"] for group in run.optimizer.param_groups]

    start = time.perf_counter()
    losses = _try_step(run, train_step)
    seconds = time.perf_counter() - start
    _try_prediction(run)
    if not processes.is_main:
        return

    info, evaluations = experiment.data.info, -(-experiment.steps // experiment.evaluation.every)
    classes = f", {info.num_classes} classes" if info.classes else ""
    weights = "from its checkpoint" if run.checkpoints.exist() else experiment.describe_weights()
    lines = (
        f"run         {experiment.run_folder}: {experiment.model.name}, task {info.task}",
        f"data        {info.name}: {len(run.training_set)} training and {len(run.validation_set)} validation images"
        f"{classes}",
        *(f"            {line}" for line in data),
        describe(counts),
        f"weights     {weights}",
        f"batch       {layout.total} = {layout.per_process} images x {layout.accumulation} rounds x "
        f"{layout.world_size} processes",
        f"steps       {experiment.steps} ({experiment.steps * layout.total / len(run.training_set):.1f} epochs), "
        f"{evaluations} evaluations",
        f"base LR     {', '.join(f'{rate:g}' for rate in rates)} in {len(rates)} parameter groups",
        f"one step    losses {', '.join(f'{name} {loss:.3f}' for name, loss in losses.items())}; "
        f"read and learnt in {seconds:.1f} s on {processes.device}, in {experiment.precision}",
    )
    print("\n".join(lines))


def _try_step(run: PlannedRun, train_step: TrainStep) -> dict[str, float]:
    """Do the first step, as the training does. Return the losses by name."""
    experiment = run.experiment
    micro_batches, error = next_batches(run.batches, run.layout.accumulation)
    if error is not None:
        raise error
    set_learning_rate(run.optimizer, experiment.schedule.factor(0, experiment.steps))
    run.processes.seed_step(experiment.seed, 0)
    losses, failed = train_step(run, micro_batches)
    terms = {name: loss.item() for name, loss in losses.items()}
    if failed:
        listed = ", ".join(f"{name} {loss:g}" for name, loss in terms.items())
        raise UserError("step 1", f"the gradient of the loss is not finite ({listed})", DIVERGED)
    return terms


def _try_prediction(run: PlannedRun) -> None:
    """Predict the first validation image, with the weights that an evaluation uses."""
    experiment, device = run.experiment, run.processes.device
    model: DenseModel = run.ema.module if run.ema else run.model  # type: ignore[assignment]
    sample = run.validation_set.load(0)
    inference = experiment.inference(model.eval())
    batch = single_batch(sample, inference.transforms, inference.size_divisor).to(device)
    with torch.inference_mode(), experiment.arithmetic(device):
        inference.predict(batch)
