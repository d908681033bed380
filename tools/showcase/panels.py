"""The panels of the pictures: what a model predicts, and where its upsampler samples, each with a caption."""

from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image

from datasets.base import Sample
from datasets.loading import single_batch
from experiment import Experiment
from models.base import DenseModel
from pictures import draw_prediction
from pictures.canvas import BLACK, WHITE
from predictor import Predictor
from tools.show_sampling.drawing import Region
from tools.show_sampling.panels import make_view
from tools.show_sampling.stages import choose_stage, run_stages
from workflow.trained import find_checkpoint, load_trained

WIDTH, HEIGHT, GAP = 480, 360, 6  # pixels
TITLES = {"seg": "semantic segmentation", "inst": "boxes and masks", "pan": "panoptic segmentation", "depth": "depth"}
ARROW, POINT = (20, 60, 160), (255, 140, 0)
SUBPIXELS = 4  # OpenCV draws to 1 / 2**SUBPIXELS of a pixel


def draw_hero(image: np.ndarray, runs: dict[str, Path], region: Region) -> Image.Image:
    """All tasks on one image [H, W, 3], with transparent gaps, for light and dark pages.

    runs: the folders of trained models by task: seg, and inst, pan, depth. region: of the sampling points.
    """
    panels = [caption(resize(image), "image")]
    for task, run in runs.items():
        found = Predictor(run)(image)
        panels.append(caption(resize(draw_prediction(image, found.raw, found.info)), TITLES[task]))
    panels[1] = mark(panels[1], region, image)
    experiment, model, _ = load_trained(find_checkpoint(runs["seg"]), None, [])
    panels.append(caption(draw_sampling(model, experiment, image, region), "where DySample samples"))
    rows = -(-len(panels) // 3)
    sheet = np.zeros((rows * (HEIGHT + GAP) - GAP, 3 * WIDTH + 2 * GAP, 4), np.uint8)
    for number, panel in enumerate(panels):
        top, left = number // 3 * (HEIGHT + GAP), number % 3 * (WIDTH + GAP)
        sheet[top : top + HEIGHT, left : left + WIDTH] = np.dstack([panel, np.full((HEIGHT, WIDTH), 255, np.uint8)])
    return Image.fromarray(sheet)


@torch.inference_mode()
def draw_sampling(model: DenseModel, experiment: Experiment, image: np.ndarray, region: Region) -> np.ndarray:
    """The region, paler, with the sampling points of the last stage (its first group) and lines from where they began.

    The grid has the low-resolution pixels.
    """
    sample = Sample("scene", image.shape[:2], image)
    device = next(model.parameters()).device
    batch = single_batch(sample, experiment.data.test_transforms, model.size_divisor).to(device)
    was_training = model.training
    stages = run_stages(model.eval(), batch)
    model.train(was_training)
    stage = stages[choose_stage(stages, None, experiment.run_folder)]
    starts, points = stage.initial_points(), stage.sampling_points()
    assert starts is not None
    assert points is not None
    view = make_view(stage, batch, image, region)
    panel = resize(view.crop_with_pixels())
    ratio = np.array([WIDTH, HEIGHT]) / view.panel[::-1]
    inside = view.contains(starts[0])
    for start, point in zip(view.on_panel(starts[0][inside]), view.on_panel(points[0][inside]), strict=True):
        begin, end = (tuple(np.rint(place * ratio * 2**SUBPIXELS).astype(int).tolist()) for place in (start, point))
        cv2.line(panel, begin, end, ARROW, 1, cv2.LINE_AA, SUBPIXELS)
        cv2.circle(panel, end, 5 * 2 ** (SUBPIXELS - 1), POINT, cv2.FILLED, cv2.LINE_AA, SUBPIXELS)
    return panel


def mark(panel: np.ndarray, region: Region, image: np.ndarray) -> np.ndarray:
    """The panel of the whole image with a frame around the region."""
    ratio = np.array([WIDTH / image.shape[1], HEIGHT / image.shape[0]] * 2)
    left, top, width, height = np.rint(np.array(region) * ratio).astype(int).tolist()
    for colour, thickness in ((BLACK, 4), (WHITE, 2)):
        cv2.rectangle(panel, (left, top), (left + width, top + height), colour, thickness, cv2.LINE_AA)
    return panel


def caption(panel: np.ndarray, text: str) -> np.ndarray:
    """The panel with a text at the upper left, white on a darkened strip."""
    (width, height), baseline = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, 0.6, 1)
    strip = panel[: height + baseline + 12, : width + 20]
    strip[:] = strip * 0.25
    return cv2.putText(panel, text, (10, height + 8), cv2.FONT_HERSHEY_SIMPLEX, 0.6, WHITE, 1, cv2.LINE_AA)


def resize(picture: np.ndarray) -> np.ndarray:
    """The picture at the size of a panel."""
    method = cv2.INTER_AREA if picture.shape[1] > WIDTH else cv2.INTER_CUBIC
    return cv2.resize(np.ascontiguousarray(picture), (WIDTH, HEIGHT), interpolation=method)
