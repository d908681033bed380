"""What the log and `train.py --check` say before the first step."""

from collections.abc import Sequence

from datasets.base import DenseDataset
from experiment import Experiment
from runtime.changes import Change
from runtime.log import RunLog


def announce(
    log: RunLog,
    experiment: Experiment,
    datasets: Sequence[DenseDataset],
    resumed: bool,
    changed: Sequence[Change],
) -> None:
    """Log the step and the changed settings; for a new run also what the data hold and the pretrained weights.

    datasets: for training and for validation. Every process calls it; only the main one counts the data.
    """
    log.print(f"{'resuming' if resumed else 'starting'} {experiment.run_folder} at step {log.step} of {log.steps}")
    notes = [f"changed: {change}" for change in changed]
    if log.processes.is_main and not resumed:
        notes += [*data_lines(*datasets), f"pretrained weights: {experiment.describe_weights()}"]
    for note in notes:
        log.add_note(note)


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
