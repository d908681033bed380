"""The page of each task, from made predictions."""

import numpy as np
import pytest
import torch

from errors import UserError
from metrics.depth_errors import DepthErrorsConfig
from structures import DatasetInfo, Instances, Panoptic, Prediction, Target
from tests.tools.pages.reader import check_alone
from tools.errors.__main__ import main
from tools.errors.calibration import calibration
from tools.errors.depth import DepthErrorsByPlace
from tools.errors.objects import ObjectErrors
from tools.errors.page import page
from tools.errors.panoptic import PanopticErrors
from tools.errors.semantic import SemanticErrors
from tools.errors.text import describe

CLASSES = ("<a>", "b")
SIZE = (12, 16)


def made(task: str):
    """An analysis, and fields of a prediction that equals its target."""
    info = DatasetInfo(task, "made", CLASSES, things=(True, False), max_depth=10.0)
    ids = torch.ones(SIZE, dtype=torch.int32)
    boxes = torch.tensor([[1.0, 1.0, 9.0, 9.0]])
    objects = Instances(boxes, torch.tensor([1]), scores=torch.tensor([0.75]))
    if task == "semantic":
        return SemanticErrors(info), {"semantic": (ids - 1).short()}
    if task == "panoptic":
        return PanopticErrors(info), {"panoptic": Panoptic(ids, {1: 0})}
    if task == "depth":
        return DepthErrorsByPlace(info, DepthErrorsConfig(crop="none")), {"depth": torch.full(SIZE, 2.0)}
    return ObjectErrors(info), {"instances": objects}


@pytest.mark.parametrize(
    ("task", "texts"),
    [
        ("semantic", ["What is taken for what", "100.0", "Calibration: none"]),
        ("panoptic", ["IoU of the matched", "Calibration: none"]),
        ("depth", ["By distance", "By gradient", "Calibration: none"]),
        ("detection", ["localisation", "25.0 %", "By size"]),
    ],
)
def test_the_page_of_each_task(task, texts):
    analysis, fields = made(task)
    grade = analysis.add(Prediction(**fields), Target("1", SIZE, **fields))
    facts = {"task": task, "dataset": "made", "checkpoint": "runs/<x>/checkpoints/best.pt", "step": 1, "images": 1}
    record = facts | {"errors": analysis.record()}
    text = "".join(page(record, [("1&2", grade, np.zeros((8, 8, 3), np.uint8))]))
    check_alone(text)
    assert all(part in text for part in texts)
    assert "<a>" not in text
    assert "1&amp;2" in text
    assert "What is wrong with &lt;x&gt;" in text
    assert "step 1" in describe(record)
    assert grade.badness == 0


def test_a_calibration_of_pixels_is_drawn():
    analysis, fields = made("semantic")
    grade = analysis.add(Prediction(**fields), Target("1", SIZE, **fields))
    errors = analysis.record() | {"calibration": calibration(np.array([0.75, 0.75]), np.array([True, False]))}
    facts = {"task": "semantic", "dataset": "made", "checkpoint": "runs/x/checkpoints/best.pt", "step": 1, "images": 1}
    text = "".join(page(facts | {"errors": errors}, [("1", grade, np.zeros((8, 8, 3), np.uint8))]))
    check_alone(text)
    assert "Calibration error" in text
    assert "25.0 %" in text
    assert "how many of these pixels are right" in text
    assert "(ECE): 25.0 %" in describe(facts | {"errors": errors})


def test_it_is_for_one_process(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr("sys.argv", ["errors", "--checkpoint", "runs/x"])
    with pytest.raises(UserError, match="is for one process; start it as python"):
        main()
