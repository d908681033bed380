"""Predict the validation set as eval.py does, and analyse the errors."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from datasets.base import DenseDataset
from datasets.loading import evaluation_loader, single_batch
from experiment import Experiment
from metrics.depth_errors import DepthErrorsConfig
from models.base import DenseModel
from pictures import draw
from runtime.distributed import Processes
from tools.errors.base import Analysis, Grade
from tools.errors.calibration import pixel_calibration
from tools.errors.depth import DepthErrorsByPlace
from tools.errors.objects import ObjectErrors
from tools.errors.panoptic import PanopticErrors
from tools.errors.semantic import SemanticErrors

WORST = 40  # pictures


@dataclass
class Findings:
    """What was found. grades: of every image, by its id, worst first. record: see docs/errors.md."""

    record: dict[str, Any]
    grades: dict[str, Grade]


def build_analysis(experiment: Experiment) -> Analysis:
    """The analysis for the task of an experiment."""
    info = experiment.data.info
    if info.task == "semantic":
        return SemanticErrors(info)
    if info.task == "panoptic":
        return PanopticErrors(info)
    if info.task == "depth":
        own = [metric for metric in experiment.metrics if isinstance(metric, DepthErrorsConfig)]
        return DepthErrorsByPlace(info, own[0] if own else DepthErrorsConfig())
    return ObjectErrors(info)


@torch.inference_mode()
def analyse(
    model: DenseModel, dataset: DenseDataset, experiment: Experiment, processes: Processes, checkpoint: Path, step: int
) -> Findings:
    """Predict every image once and add up its errors."""
    analysis, grades = build_analysis(experiment), {}
    inference = experiment.inference(model.to(processes.device).eval())
    loader = evaluation_loader(
        dataset,
        inference.transforms,
        batch_size=experiment.evaluation.batch_size,
        size_divisor=inference.size_divisor,
        workers=experiment.system.workers,
        pin_memory=processes.device.type == "cuda",
    )
    with experiment.arithmetic(processes.device), tqdm(total=len(dataset), unit="image", disable=None) as progress:
        for batch in loader:
            for prediction, target in zip(inference.predict(batch.to(processes.device)), batch.targets, strict=True):
                grades[target.image_id] = analysis.add(prediction.to("cpu"), target)
                progress.update()
    ordered = dict(sorted(grades.items(), key=lambda item: -np.nan_to_num(item[1].badness, nan=np.inf)))
    info, errors = experiment.data.info, analysis.record()
    if info.task == "semantic":
        with experiment.arithmetic(processes.device):
            errors["calibration"] = pixel_calibration(model, dataset, experiment, processes.device)
    facts = {"task": info.task, "dataset": info.name, "checkpoint": str(checkpoint), "step": step}
    worst = [{"image": name, **grade._asdict()} for name, grade in list(ordered.items())[:WORST]]
    record = facts | {"images": len(ordered), "errors": errors, "worst": worst}
    return Findings(record, ordered)


@torch.inference_mode()
def worst_pictures(
    findings: Findings, model: DenseModel, dataset: DenseDataset, experiment: Experiment, processes: Processes
) -> Iterator[tuple[str, Grade, np.ndarray]]:
    """The worst images, at most WORST, each predicted again: its id, its grade and an RGB picture uint8 [H, W, 3]."""
    inference = experiment.inference(model)
    places = {dataset.image_id(index): index for index in range(len(dataset))}
    for name, grade in list(findings.grades.items())[:WORST]:
        sample = dataset.load(places[name])
        batch = single_batch(sample, inference.transforms, inference.size_divisor)
        with experiment.arithmetic(processes.device):
            prediction = inference.predict(batch.to(processes.device))[0].to("cpu")
        yield name, grade, draw(sample.image, prediction, batch.targets[0], experiment.data.info)
