"""Train a model: `torchrun [...] train.py --cfg FILE [KEY=VALUE ...]`, or `python train.py ...` for one process.

The same command again resumes. `--check` builds everything, runs one batch through training and prediction, prints the
plan and exits.
"""

from contextlib import nullcontext
from pathlib import Path
from typing import cast

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from datasets.loading import next_batches, training_loader
from errors import ArgumentParser, Interrupted, run_command
from eval import score, validation_pictures, write_result
from experiment import Experiment, load_experiment
from models.base import DenseModel
from runtime.checkpoint import Checkpoints
from runtime.deterministic import deterministic_algorithms
from runtime.distributed import Processes, local_gradients, parallelize, start_processes, synchronize_batch_norm
from runtime.ending import ending_together
from runtime.log import RunLog
from runtime.memory import keep_freed_memory
from runtime.run_folder import RunFolder
from runtime.schedule import set_learning_rate
from runtime.signals import StopSignals
from runtime.state import TrainingState, seed_step
from tools.plan import print_plan


def train(experiment: Experiment, processes: Processes) -> None:
    """The whole run: build, resume, then step by step to the end."""
    device, layout, folder = processes.device, experiment.batch_layout(processes), experiment.run_folder
    training_set, validation_set = experiment.data.build("train"), experiment.data.build("val")
    best_metric, lower_is_better = experiment.best_metric()

    memory_format = torch.channels_last if experiment.system.channels_last else torch.contiguous_format
    model = experiment.build_model().to(device=device, memory_format=memory_format)  # type: ignore[call-overload]
    if experiment.sync_batch_norm:
        synchronize_batch_norm(model, processes)
    averaged = None
    if experiment.ema_decay is not None:
        averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(experiment.ema_decay))
    optimizer = experiment.optimizer.build(model, experiment.batch_size)
    scaler = torch.amp.GradScaler(device.type, enabled=experiment.precision == "fp16")
    state = TrainingState(experiment, model, optimizer, scaler, averaged)
    checkpoints = Checkpoints(folder / "checkpoints")
    resumed = state.resume(checkpoints)

    if experiment.system.compile:
        model.compile()
    parallel = parallelize(model, processes)
    batches = training_loader(
        training_set,
        experiment.data.train_transforms,
        seed=experiment.seed,
        layout=layout,
        size_divisor=model.size_divisor,
        first_step=state.step,
        workers=experiment.system.workers,
        pin_memory=device.type == "cuda",
    )
    learning_rate = 0.0

    with (
        RunLog(folder, state.step, state.evaluated, experiment.steps, layout.total, processes) as log,
        StopSignals() as stop,
    ):
        log.say(f"{'resuming' if resumed else 'starting'} {folder} at step {state.step} of {experiment.steps}")
        if not resumed:
            for line in [*training_set.skipped, *validation_set.skipped]:
                log.say(f"skipped: {line}")
            log.say(f"pretrained weights: {', '.join(experiment.weight_files()) or 'none, all start at random'}")
        for step in range(state.step, experiment.steps + 1):
            if experiment.evaluation_due(step) and step > state.evaluated:
                processes.wait()  # until the step is saved: stopped from here on, all of this is done again
                with stop.at_once():
                    scored = cast(DenseModel, averaged.module) if averaged else model
                    result = score(scored, validation_set, experiment, processes)
                    is_best = state.scored(best_metric, result["metrics"][best_metric], lower_is_better)
                    log.evaluation(result["metrics"], result["seconds"])
                    for image_id, picture in validation_pictures(scored, validation_set, experiment, processes):
                        log.picture(image_id, picture)
                    if processes.is_main and is_best:
                        result |= {"checkpoint": str(checkpoints.best), "step": step}
                        write_result(folder / "results.json", result)
                    processes.wait()
                # Last, so that of an evaluation that counts as done nothing is missing.
                if processes.is_main:
                    checkpoints.save(state.content(), is_best)
            if step == experiment.steps:
                break

            # One step: all images are read before any process goes on, so that all stop together.
            micro_batches, problem = next_batches(batches, layout.accumulation)
            if processes.any(problem is not None or stop.received is not None):
                log.flush(learning_rate)
                if processes.is_main:
                    checkpoints.save(state.content())
                reasons = processes.collect(Interrupted(stop.received) if stop.received else problem)
                raise next(reason for reason in reasons if reason)
            learning_rate = set_learning_rate(optimizer, experiment.schedule.factor(step, experiment.steps))
            seed_step(experiment.seed, step, processes.rank)
            totals: dict[str, Tensor] = {}
            for index, micro_batch in enumerate(micro_batches):
                batch = micro_batch.to(device, memory_format)
                is_last = index == layout.accumulation - 1
                with nullcontext() if is_last else local_gradients(parallel):
                    with experiment.autocast(device):
                        losses: dict[str, Tensor] = parallel(batch)
                    loss = torch.stack(list(losses.values())).sum()
                    scaler.scale(loss / layout.accumulation).backward()
                for name, term in losses.items():
                    totals[name] = totals.get(name, 0) + term.detach() / layout.accumulation
            scaler.unscale_(optimizer)
            if experiment.gradient_clip is not None:
                clip_grad_norm_(model.parameters(), experiment.gradient_clip)
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
            if averaged is not None:
                averaged.update_parameters(model)
            state.step = step + 1

            log.add(state.step, totals, [target.image_id for batch in micro_batches for target in batch.targets])
            save = state.step % experiment.logging.checkpoint_every == 0 or experiment.evaluation_due(state.step)
            if save or state.step % experiment.logging.every == 0:
                log.flush(learning_rate)  # refuses losses that are not finite
            if save and processes.is_main:
                checkpoints.save(state.content())
        log.say(f"done: {folder}, best {state.best}")


@ending_together()
def main() -> None:
    """The command."""
    parser = ArgumentParser(prog="train.py", description=__doc__)
    parser.add_argument("--cfg", type=Path, required=True, help="a YAML file, for example configs/seg_dysample.yaml")
    parser.add_argument("--check", action="store_true", help="try one batch, print the plan and exit")
    parser.add_argument("overrides", nargs="*", default=[], metavar="KEY=VALUE")
    arguments = parser.parse_intermixed_args()
    experiment = load_experiment(arguments.cfg, arguments.overrides)
    if experiment.system.reuse_memory:
        keep_freed_memory()
    processes = start_processes(experiment.system.device)
    with deterministic_algorithms(experiment.system.deterministic):
        if arguments.check:
            print_plan(experiment, processes)
            return
        with RunFolder(experiment.run_folder, experiment.dump()) if processes.is_main else nullcontext():
            train(experiment, processes)


if __name__ == "__main__":
    run_command(main)
