"""The kinds of errors and what they cost, beside those of TIDE's authors: `pip install tidecv` to run this."""

import numpy as np
import pytest
import torch

from structures import Instances
from tools.errors import tide
from tools.errors.objects import ShapeErrors

pytest.importorskip("tidecv")
from tidecv import TIDE, Data
from tidecv.quantify import TIDERun

NAMES = {"Cls": "classification", "Loc": "localisation", "Both": "both", "Dupe": "duplicate", "Bkg": "background"}
NAMES |= {"Miss": "missed"}


def instances(boxes, labels, scores=None) -> Instances:
    boxes = torch.tensor(boxes).reshape(-1, 4)
    scores = None if scores is None else torch.tensor(scores)
    return Instances(boxes, torch.tensor(labels).long(), scores=scores, xywh=boxes)


@pytest.mark.parametrize("seed", range(10))
def test_counts_and_costs_are_those_of_the_authors(monkeypatch, seed):
    monkeypatch.setattr(tide, "RECALLS", np.arange(101) / 100)  # theirs; COCO's differ in the last bit
    rng = np.random.default_rng(seed)
    true, found, ours = Data("true"), Data("found"), ShapeErrors(tuple("abcd"), "bbox")
    for image in range(20):
        count, guesses = rng.integers(1, 7), rng.integers(0, 14)
        boxes = np.hstack([rng.uniform(0, 100, (count, 2)), rng.uniform(10, 60, (count, 2))])
        labels, about = rng.integers(0, 4, count), rng.integers(0, count, guesses)
        near = boxes[about] + rng.normal(0, rng.choice([1, 6, 20]), (guesses, 4))
        near[:, 2:] = np.abs(near[:, 2:]) + 1
        classes = np.where(rng.random(guesses) < 0.7, labels[about], rng.integers(0, 4, guesses))
        scores = rng.random(guesses)
        for label, box in zip(labels.tolist(), boxes.tolist(), strict=True):
            true.add_ground_truth(image, label, box)
        for label, score, box in zip(classes.tolist(), scores.tolist(), near.tolist(), strict=True):
            found.add_detection(image, label, score, box)
        true.add_image(image, str(image))
        ours.add(instances(near, classes, scores), instances(boxes, labels), (200, 200))
    run, record = TIDERun(true, found, 0.5, 0.1, TIDE.BOX, 100), ours.record()
    assert {NAMES[kind.short_name]: count for kind, count in run.count_errors().items()} == {
        name: record["count"][name] for name in tide.KINDS
    }
    assert record["AP50"] == pytest.approx(run.ap, abs=1e-9)
    for kind, lost in run.fix_main_errors().items():
        assert max(record["lost"][NAMES[kind.short_name]], 0) == pytest.approx(lost, abs=1e-9)
