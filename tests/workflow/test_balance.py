"""What `train.py --check` says about class weights and repeated images."""

import numpy as np
import torch
from torch import nn

from datasets.base import DenseDataset
from datasets.frequency import Occurrences
from models.layers.pixel_losses import CrossEntropy
from structures import DatasetInfo
from workflow.balance import balance_lines


class Four(DenseDataset):
    """Class a in all images, b in two, c in one, d in none."""

    info = DatasetInfo("semantic", "four", tuple("abcd"))

    def __init__(self, threshold: float | None) -> None:
        self.repeat_threshold = threshold

    def __len__(self) -> int:
        return 4

    def occurrences(self) -> Occurrences:
        return Occurrences(*np.array([[0, 0, 1], [1, 0, 1], [2, 0, 1], [3, 0, 1], [0, 1, 1], [1, 1, 1], [0, 2, 9]]).T)


Four.__abstractmethods__ = frozenset()  # the rest is not read


def test_weights_and_repeats_are_told_with_their_classes() -> None:
    model = nn.ModuleList([CrossEntropy("loss_ce", 1.0, torch.tensor([0.25, 1, 1, 5.0])), CrossEntropy("x", 1.0, None)])
    assert balance_lines(model, Four(1.0)) == [
        "loss_ce: class weights 0.25 (a) to 5 (d)",
        "repeats: 2 of 4 images, for c 2, b 1.41 times; an epoch has 5 images",
    ]


def test_classes_with_one_weight_are_counted() -> None:
    model = CrossEntropy("loss_ce", 1.0, torch.tensor([2.0, 2, 2, 2]))
    assert balance_lines(model, Four(0.1)) == [
        "loss_ce: class weights 2 (4 classes)",
        "repeats: none, since no class is in less than a share 0.1 of the images",
    ]


def test_without_either_nothing_is_said() -> None:
    assert balance_lines(nn.Identity(), Four(None)) == []
