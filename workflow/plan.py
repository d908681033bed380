"""`train.py --check`: do one training step and one prediction, print the plan."""

import time
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from datasets.loading import next_batches, single_batch
from errors import UserError
from models.base import DenseModel
from models.cost import complexity, describe, shapes_only
from runtime.checkpoint import Checkpoints
from runtime.schedule import set_learning_rate
from runtime.sinks import require_installed
from runtime.state import DIVERGED
from structures import Batch
from workflow.announce import StartedRun, data_lines, run_facts
from workflow.balance import balance_lines


class PlannedRun(StartedRun, Protocol):
    """What a plan needs of train.py's `Run`, which has not resumed from any checkpoint."""

    checkpoints: Checkpoints
    ema: AveragedModel | None
    batches: Iterator[Batch]


TrainStep = Callable[[Any, list[Batch]], tuple[dict[str, Tensor], Tensor]]  # of train.py


def print_plan(run: PlannedRun, train_step: TrainStep) -> None:
    """Do the first training step of the run and predict an image, then print the plan. Nothing is written.

    Raises UserError for whatever would stop the training at its first step.
    """
    experiment, processes = run.experiment, run.processes
    require_installed(experiment.logging.sinks)
    data = data_lines(run.training_set, run.validation_set) if processes.is_main else []
    data += balance_lines(run.model, run.training_set) + experiment.optimizer.warnings(run.model)
    with shapes_only():
        plain = experiment.build_model(pretrained=False)  # not compiled, not distributed
    counts = complexity(plain, experiment.padded_input(plain))
    facts = run_facts(run)  # before the step changes the learning rates

    start = time.perf_counter()
    losses = _try_step(run, train_step)
    seconds = time.perf_counter() - start
    _try_prediction(run)
    if not processes.is_main:
        return

    weights = "from its checkpoint" if run.checkpoints.exist() else experiment.describe_weights(run.model.left_out)
    lines = (
        f"run         {facts['run']}",
        f"data        {facts['data']}",
        *(f"            {line}" for line in data),
        describe(counts),
        f"weights     {weights}",
        f"batch       {facts['batch']}",
        f"steps       {facts['steps']}",
        f"base LR     {facts['base LR']}",
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
