"""Calibration of semantic segmentation: pixels are looked up where they are, and probabilities compared with labels."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from datasets.base import DenseDataset, Sample
from experiment import load_experiment
from models.base import DenseModel
from structures import IGNORE
from tests.conftest import ROOT
from tools.errors.calibration import pixel_calibration

LABELS = np.zeros((24, 30), np.int16)
LABELS[:, 10:] = 1
LABELS[20:] = IGNORE


class Known(DenseModel):
    """Class probabilities at a third of the size, the first from `first` [h, w]."""

    size_divisor = 8

    def __init__(self, first: torch.Tensor, total: float = 1.0) -> None:
        super().__init__()
        self.first, self.total = first, total

    def maps(self, images, unpadded):
        assert (images.shape[2:], unpadded) == ((24, 32), (24, 30))
        maps = torch.stack([self.first, self.total - self.first])[None]
        return F.interpolate(maps, unpadded, mode="nearest")

    def outputs(self, images):
        raise AssertionError

    forward = predict_tensors = predict = outputs


class Images(DenseDataset):
    """Three images with one label map."""

    def __len__(self) -> int:
        return 3

    def load(self, index: int) -> Sample:
        return Sample(str(index), LABELS.shape, np.zeros((*LABELS.shape, 3), np.uint8), semantic=LABELS)


Images.__abstractmethods__ = frozenset()


def calibrated(model: DenseModel, *words: str) -> dict:
    experiment = load_experiment(ROOT / "configs/small/seg.yaml", words)
    return pixel_calibration(model, Images(), experiment, torch.device("cpu"))


def test_pixels_are_looked_up_where_they_are():
    """Sure of class 0 in the first 10 of 30 columns and of class 1 in the others, and always right."""
    first = torch.zeros(8, 30)
    first[:, :10] = 1
    found = calibrated(Known(first))
    assert found == {"ece": 0, "bins": [(1.0, 1.0, 6000)]}
    assert calibrated(Known(first)) == found


def test_the_distance_between_probability_and_truth():
    """0.8 for class 0 everywhere, of which a third of the labelled pixels are."""
    found = calibrated(Known(torch.full((8, 30), 0.8)))
    assert found["bins"][0][0] == pytest.approx(0.8)
    assert found["ece"] == pytest.approx(80 - 100 / 3, abs=2)


def test_without_probabilities_there_is_none():
    found = calibrated(Known(torch.full((8, 30), 0.8), total=1.5))
    assert found == {"ece": None, "reason": "the class scores of this model are no probabilities"}
    found = calibrated(Known(torch.full((8, 30), 0.8)), "evaluation.inference.flip=true")
    assert found == {"ece": None, "reason": "images are predicted in parts (evaluation.inference)"}
