"""What is written into an exported file besides the graph."""

import json
from pathlib import Path
from typing import Any

import yaml

from datasets.colour import Normalize
from experiment import Experiment
from models.base import DenseModel
from models.weights import IMAGENET
from published.index import entries
from upsamplers.sampling import SamplingForm
from workflow.onnx_metadata import Metadata


def describe_model(
    experiment: Experiment, model: DenseModel, checkpoint: Path, *, whole: bool, sampling: SamplingForm, precision: str
) -> Metadata:
    """The metadata of an export that is not yet verified. checkpoint: what the weights were loaded from."""
    info, settings = experiment.data.info, experiment.dump()
    return Metadata(
        format="full" if whole else "raw",
        task=info.task,
        model=settings["model"]["name"],
        upsampler=settings["model"].get("upsampler", {}).get("name", ""),
        classes=info.classes,
        things=info.things,
        max_depth=info.max_depth,
        preprocessing=_preprocessing(experiment, model),
        config=yaml.safe_dump(settings, sort_keys=False),
        licence=find_licence(experiment, checkpoint),
        sampling=sampling,
        opset=None,
        precision=precision,
    )


def normalization(experiment: Experiment) -> Normalize:
    """The one step of the test transforms that normalises."""
    return next(step for step in experiment.data.test_transforms if isinstance(step, Normalize))


def _preprocessing(experiment: Experiment, model: DenseModel) -> dict[str, Any]:
    normalize = normalization(experiment)
    return {
        "channel_order": "RGB",
        "mean": list(normalize.mean),
        "std": list(normalize.std),
        "size_divisor": model.size_divisor,
        "resize": [step.model_dump(mode="json") for step in experiment.data.test_transforms if step is not normalize],
        "pad_value": 0.0,
    }


def find_licence(experiment: Experiment, checkpoint: Path) -> str | None:
    """The licences of published weights that a model is, or was trained from; None if none is known."""
    beside = checkpoint.with_suffix(".json")
    if str(checkpoint) in entries():
        return entries()[str(checkpoint)].licence
    if beside.is_file():  # of a converted file
        try:
            found = json.loads(beside.read_text()).get("licence")
        except (OSError, ValueError, AttributeError):
            found = None
        if isinstance(found, str):
            return found
    names = [experiment.model.weights, experiment.model.backbone.weights]
    published = experiment.model.backbone.published
    names = [published.name if name == IMAGENET and published is not None else name for name in names]
    texts = [f"trained from {name}: {entries()[name].licence}" for name in names if name in entries()]
    return "; ".join(texts) or None
