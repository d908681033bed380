"""Train a model: `torchrun [...] train.py --cfg FILE [KEY=VALUE ...]`, or `python train.py ...` for one process.

Run the same command again to resume. `--check` does one training step and one prediction, prints the plan and exits.
"""

from collections.abc import Sequence
from contextlib import nullcontext

from errors import Interrupted, read_early, run_command
from workflow.arguments import training_arguments

if __name__ == "__main__":  # before the imports below, which take seconds
    read_early(training_arguments, __doc__)

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from datasets.loading import next_batches, training_loader
from eval import score
from experiment import Experiment, load_experiment
from models.base import DenseModel
from runtime.arithmetic import deterministic_algorithms
from runtime.changes import Change
from runtime.checkpoint import Checkpoints
from runtime.distributed import Processes, local_gradients, parallelize, start_processes, synchronize_batch_norm
from runtime.log import RunLog
from runtime.memory import keep_freed_memory
from runtime.optimizer import moving_average
from runtime.run_folder import RunFolder
from runtime.schedule import set_learning_rate
from runtime.shutdown import exit_together
from runtime.signals import StopSignals
from runtime.state import TrainingState
from structures import Batch
from workflow.announce import announce
from workflow.pictures import validation_pictures
from workflow.plan import print_plan
from workflow.results import describe_run, headline, write_run_results


class Run:
    """The parts of one run, built here; `resumed` from its last checkpoint if there is one and `resume` is true.

    parallel: the model as DistributedDataParallel, if there are several processes. ema: the moving average of its
    weights, or None. batches: an endless iterator, of which each step takes `layout.accumulation`.
    """

    def __init__(self, experiment: Experiment, processes: Processes, resume: bool = True) -> None:
        self.experiment, self.processes = experiment, processes
        device, self.layout = processes.device, experiment.batch_layout(processes)
        self.best_metric, self.lower_is_better = experiment.best_metric()
        self.training_set, self.validation_set = experiment.data.build("train"), experiment.data.build("val")
        self.memory_format = torch.channels_last if experiment.system.channels_last else torch.contiguous_format
        self.checkpoints = Checkpoints(experiment.run_folder / "checkpoints")
        self.model = model = experiment.build_model(not self.checkpoints.exist(), self.training_set.info)
        model.to(device=device, memory_format=self.memory_format)  # type: ignore[call-overload]
        if experiment.sync_batch_norm:
            synchronize_batch_norm(model, processes)
        self.ema = moving_average(model, experiment.ema_decay)
        self.optimizer = experiment.optimizer.build(model, experiment.batch_size, model.parts)
        self.scaler = torch.amp.GradScaler(device.type, enabled=experiment.precision == "fp16")
        self.autocast = experiment.autocast(device)
        images = f"{self.training_set.fingerprint()} and, for validation, {self.validation_set.fingerprint()}"
        fixed = {"accumulation rounds": self.layout.accumulation, "data": images}
        self.state = TrainingState(experiment, model, self.optimizer, self.scaler, self.ema, fixed)
        self.resumed = resume and self.state.resume(self.checkpoints)

        if experiment.system.compile:
            model.compile()
        self.parallel = parallelize(model, processes)
        self.batches = training_loader(
            self.training_set,
            experiment.data.train_transforms,
            seed=experiment.seed,
            layout=self.layout,
            size_divisor=model.size_divisor,
            first_step=self.state.step,
            workers=experiment.system.workers,
            pin_memory=device.type == "cuda",
        )


def train(experiment: Experiment, processes: Processes, changed: Sequence[Change] = ()) -> None:
    """Train to the last step, from the last checkpoint if there is one; evaluate every `evaluation.every` steps.

    changed: settings that are not those of an earlier start; for the log.
    """
    run = Run(experiment, processes)
    state, evaluate_every, sinks = run.state, experiment.evaluation.every, experiment.logging.sinks
    steps = max(experiment.steps, state.step)  # a run that has done more is finished
    learning_rate = 0.0
    with (
        RunLog(experiment.run_folder, state.step, state.evaluated, steps, run.layout.total, processes, sinks) as log,
        StopSignals() as stop,
    ):
        announce(log, run, changed)
        for step in range(state.step, steps + 1):
            # First, since a resumed run does again an evaluation that was interrupted.
            if step > state.evaluated and (step % evaluate_every == 0 or step == steps):
                evaluate_and_save(run, log, stop)
            if step == steps or state.out_of_patience:
                break
            # Every process reads all images of the step before any of them trains, so that all stop at the same step.
            with log.waiting():
                micro_batches, error = next_batches(run.batches, run.layout.accumulation)
            if processes.any(error is not None or stop.received is not None):
                log.flush(learning_rate)
                if processes.is_main:
                    run.checkpoints.save(state.to_checkpoint())
                reasons = processes.collect(Interrupted(stop.received) if stop.received else error)
                raise next(reason for reason in reasons if reason)
            learning_rate = set_learning_rate(run.optimizer, experiment.schedule.factor(step, steps))
            processes.seed_step(experiment.seed, step)
            losses, failed = train_step(run, micro_batches)
            state.step = step + 1
            log.add_losses(state.step, losses, failed, [name for batch in micro_batches for name in batch.image_ids])
            evaluation_next = state.step % evaluate_every == 0 or state.step == steps
            save = state.step % experiment.logging.checkpoint_every == 0 or evaluation_next
            if save or state.step % experiment.logging.every == 0:
                log.flush(learning_rate)  # raises UserError if a step failed
            if save and processes.is_main:
                run.checkpoints.save(state.to_checkpoint())
        log.print(describe_run(experiment.run_folder, state))


def train_step(run: Run, micro_batches: list[Batch]) -> tuple[dict[str, Tensor], Tensor]:
    """Do one optimiser step. Return the losses by name: detached scalars, means over this process's micro-batches.

    Also return whether it failed: where the loss or the gradient of any process is not finite, no weight changes. That
    is decided on the device, without waiting. With fp16, gradients may overflow while the loss scale is adapted.
    """
    totals: dict[str, Tensor] = {}
    for index, micro_batch in enumerate(micro_batches):
        batch = micro_batch.to(run.processes.device, run.memory_format)
        is_last = index == len(micro_batches) - 1
        with nullcontext() if is_last else local_gradients(run.parallel):
            with run.autocast:
                losses: dict[str, Tensor] = run.parallel(batch)
            loss = torch.stack(list(losses.values())).sum()
            loss = loss * torch.where(loss.isfinite(), 1.0, torch.nan)  # else NaN, in the gradients of all processes
            run.scaler.scale(loss / len(micro_batches)).backward()
        for name, term in losses.items():
            totals[name] = totals.get(name, 0) + term.detach() / len(micro_batches)
    run.scaler.unscale_(run.optimizer)
    norm = clip_grad_norm_(run.model.parameters(), run.experiment.gradient_clip or torch.inf)
    failed = ~norm.isfinite() & (not run.scaler.is_enabled())
    run.optimizer.found_inf = failed.float()  # type: ignore[attr-defined]  # at 1 a fused optimiser changes nothing
    run.scaler.step(run.optimizer)
    run.scaler.update()
    run.optimizer.zero_grad()
    if run.ema is not None:
        run.ema.update_parameters(run.model)
    return totals, failed


def evaluate_and_save(run: Run, log: RunLog, stop: StopSignals) -> None:
    """Evaluate the model, log its metrics and pictures, and save. Results go to results_last.json and results.json.

    The evaluation counts as done once the checkpoint is saved: a run that is stopped earlier repeats it when resumed.
    """
    experiment, processes, state = run.experiment, run.processes, run.state
    processes.wait()
    with stop.raise_at_once():
        model: DenseModel = run.ema.module if run.ema else run.model  # type: ignore[assignment]
        processes.share_buffers(model)
        result = score(model, run.validation_set, experiment, processes)
        is_best = state.record_score(run.best_metric, result["metrics"][run.best_metric], run.lower_is_better)
        log.add_evaluation(result["metrics"], result["seconds"], headline(experiment), run.best_metric)
        for image_id, picture in validation_pictures(model, run.validation_set, experiment, processes):
            log.add_picture(image_id, picture)
        if processes.is_main:
            write_run_results(experiment.run_folder, result, state.step, is_best)
        processes.wait()
    if processes.is_main:
        run.checkpoints.save(state.to_checkpoint(), is_best)
    log.restart_clock()


@exit_together()
def main() -> None:
    """Run the command."""
    arguments = training_arguments(__doc__)
    experiment = load_experiment(arguments.cfg, arguments.overrides).in_steps()
    if not Checkpoints(experiment.run_folder / "checkpoints").exist():
        experiment.fetch_weights()
    if experiment.system.reuse_memory:
        keep_freed_memory()
    processes = start_processes(experiment.system.device, experiment.system.backend)
    with deterministic_algorithms(experiment.system.deterministic), experiment.float32():
        if arguments.check:
            print_plan(Run(experiment, processes, resume=False), train_step)
            return
        with RunFolder(experiment.run_folder, experiment) if processes.is_main else nullcontext([]) as changed:
            train(experiment, processes, changed)


if __name__ == "__main__":
    run_command(main)
