"""`train.py --check`: build everything, run one batch, print the plan."""

import time

import torch

from datasets.loading import next_batches, single_batch, training_loader
from experiment import Experiment
from models.cost import complexity, describe
from runtime.distributed import Processes
from workflow.announce import data_lines


def print_plan(experiment: Experiment, processes: Processes) -> None:
    """Build everything, run one batch through training and prediction, and print the plan.

    Raises UserError for whatever would stop the training at its first step. The run folder is not looked at.
    """
    layout = experiment.batch_layout(processes)
    training_set, validation_set = experiment.data.build("train"), experiment.data.build("val")
    experiment.best_metric()
    data = data_lines(training_set, validation_set) if processes.is_main else []
    model = experiment.build_model()
    optimizer = experiment.optimizer.build(model, experiment.batch_size)
    counts = complexity(model, experiment.padded_input(model))
    model.to(processes.device).train()

    start = time.perf_counter()
    batches = training_loader(
        training_set,
        experiment.data.train_transforms,
        seed=experiment.seed,
        layout=layout,
        size_divisor=model.size_divisor,
    )
    micro_batches, error = next_batches(batches, 1)
    if error is not None:
        raise error
    with experiment.autocast(processes.device):
        losses = model(micro_batches[0].to(processes.device))
    torch.stack(list(losses.values())).sum().backward()
    seconds = time.perf_counter() - start
    sample = validation_set.load(0)
    batch = single_batch(sample, experiment.data.test_transforms, model.size_divisor).to(processes.device)
    with experiment.autocast(processes.device):
        model.eval().predict(batch)
    if not processes.is_main:
        return

    info, evaluations = experiment.data.info, -(-experiment.steps // experiment.evaluation.every)
    classes = f", {info.num_classes} classes" if info.classes else ""
    rates = [group["lr"] for group in optimizer.param_groups]
    lines = (
        f"run         {experiment.run_folder}: {experiment.model.name}, task {info.task}",
        f"data        {info.name}: {len(training_set)} training and {len(validation_set)} validation images{classes}",
        *(f"            {line}" for line in data),
        describe(counts),
        f"weights     {experiment.describe_weights()}",
        f"batch       {layout.total} = {layout.per_process} images x {layout.accumulation} rounds x "
        f"{layout.world_size} processes",
        f"steps       {experiment.steps} ({experiment.steps * layout.total / len(training_set):.1f} epochs), "
        f"{evaluations} evaluations",
        f"base LR     {', '.join(f'{rate:g}' for rate in rates)} in {len(rates)} parameter groups",
        f"one batch   losses {', '.join(f'{name} {loss.item():.3f}' for name, loss in losses.items())}; "
        f"read, forward and backward in {seconds:.1f} s on {processes.device}",
    )
    print("\n".join(lines))
