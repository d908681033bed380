"""Calibration: how far scores are from the share of what is right (Guo et al., ICML 2017)."""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from datasets.base import DenseDataset
from datasets.loading import single_batch
from experiment import Experiment
from models.base import DenseModel
from structures import IGNORE
from workflow.onnx_model import OnnxModel

BINS = 10
IMAGES, PIXELS = 100, 2000  # of semantic segmentation: so many images, evenly spread, and random pixels of each
SUMS_TO_ONE = 0.01  # how far class probabilities may be from it


def calibration(scores: np.ndarray, right: np.ndarray) -> dict[str, Any]:
    """How far scores [D] are the share of predictions that are right [D] bool, in 10 bins.

    ece: the expected calibration error, the mean |share that is right - mean score| over bins, weighted by their
    entries, in percent. bins: (mean score, share that is right, entries) of those that have entries.
    """
    places = (scores * BINS).astype(int).clip(0, BINS - 1)
    bins = []
    for place in np.unique(places).tolist():
        inside = places == place
        bins.append((float(scores[inside].mean()), float(right[inside].mean()), int(inside.sum())))
    total = sum(count for _, _, count in bins)
    error = sum(count * abs(score - share) for score, share, count in bins)
    return {"ece": 100 * error / total if total else float("nan"), "bins": bins}


@torch.inference_mode()
def pixel_calibration(
    model: DenseModel, dataset: DenseDataset, experiment: Experiment, device: torch.device
) -> dict[str, Any]:
    """`calibration` of the probability of the best class at random labelled pixels of some images, always the same.

    ece is None, with a reason, if the model gives no class probabilities, or predicts images in parts.
    """
    if isinstance(model, OnnxModel):
        return {"ece": None, "reason": "an exported file gives classes alone"}
    settings = experiment.evaluation.inference
    if settings is not None and not settings.at_once:
        return {"ece": None, "reason": "images are predicted in parts (evaluation.inference)"}
    inference, random = experiment.inference(model), np.random.default_rng(0)
    scores, right = [np.zeros(0)], [np.zeros(0, bool)]
    for index in np.unique(np.linspace(0, len(dataset) - 1, IMAGES).round().astype(int)).tolist():
        batch = single_batch(dataset.load(index), inference.transforms, inference.size_divisor).to(device)
        labels = batch.targets[0].semantic
        assert labels is not None
        places = torch.nonzero(labels != IGNORE)
        if not len(places):
            continue
        places = places[torch.from_numpy(random.integers(len(places), size=PIXELS)).to(device)]
        maps = model.maps(batch.images, batch.sizes[0])
        if (maps[0].sum(dim=0) - 1).abs().max() > SUMS_TO_ONE:
            return {"ece": None, "reason": "the class scores of this model are no probabilities"}
        grid = (places + 0.5) * 2 / torch.tensor(labels.shape, device=device) - 1  # rows, columns
        found = F.grid_sample(maps, grid.flip(1)[None, None].float(), padding_mode="border", align_corners=False)
        best, classes = found[0, :, 0].max(dim=0)
        scores.append(best.double().cpu().numpy())
        right.append((classes == labels[tuple(places.T)]).cpu().numpy())
    return calibration(np.concatenate(scores), np.concatenate(right))
