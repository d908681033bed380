"""What the data of a run hold, in lines for the log and for `train.py --check`."""

from datasets.base import DenseDataset


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
