"""Pictures show what they claim."""

import numpy as np
import torch

from pictures import draw
from pictures.canvas import RED, palette
from pictures.semantic import semantic_panels
from structures import IGNORE, DatasetInfo, Prediction, Target

INFO = DatasetInfo("semantic", "test", ("sky", "tree", "road"))


def maps() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    image = np.full((40, 50, 3), 128, np.uint8)
    truth = rng.integers(0, 3, (40, 50)).astype(np.int16)
    truth[:5] = IGNORE
    prediction = truth.copy()
    prediction[10:20] = (prediction[10:20] + 1) % 3
    return image, truth, prediction


def test_wrong_pixels_are_red_and_unlabelled_ones_black():
    image, truth, prediction = maps()
    prediction[:5] = 0  # where nothing is known, nothing is wrong
    panels, legend = semantic_panels(image, truth, prediction, INFO)
    errors = panels["errors"].astype(int)
    assert (errors[:5] == 0).all()
    assert (errors[10:20, :, 0] - errors[10:20, :, 1] > 50).all()
    assert (errors[20:] == 128).all()
    assert set(legend) == {"sky", "tree", "road"}


def test_colours_of_classes_differ():
    colours = palette(150).astype(int)
    assert len(np.unique(colours, axis=0)) == 150
    assert (np.abs(colours[:15, None] - colours[None, :15]).sum(2) + 1000 * np.eye(15) > 40).all()
    assert (np.abs(colours[:10] - np.array(RED)).sum(1) > 40).all()


def test_picture_has_a_panel_each_and_a_legible_size():
    image, truth, prediction = maps()
    target = Target("a", (40, 50), semantic=torch.from_numpy(truth))
    with_truth = draw(image, Prediction(semantic=torch.from_numpy(prediction)), target, INFO)
    alone = draw(image, Prediction(semantic=torch.from_numpy(prediction)), None, INFO)
    assert with_truth.dtype == np.uint8
    assert with_truth.shape[1] > 1.9 * alone.shape[1]
    assert alone.shape[0] > 240
