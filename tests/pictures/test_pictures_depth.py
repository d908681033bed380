"""Pictures of depth show what they claim."""

import numpy as np
import pytest
import torch

from pictures import draw
from pictures.canvas import BLACK, RED, WHITE
from pictures.depth import colour_depths, colour_errors, depth_panels
from structures import DatasetInfo, Prediction, Target

INFO = DatasetInfo("depth", "test", max_depth=10)


def maps() -> tuple[np.ndarray, np.ndarray]:
    truth = np.linspace(1, 5, 40 * 50, dtype=np.float32).reshape(40, 50)
    prediction = truth.copy()
    prediction[20:] += 1
    truth[:5] = 0
    return truth, prediction


def error_panel(panels: dict[str, np.ndarray]) -> np.ndarray:
    return next(panel for name, panel in panels.items() if name.startswith("error"))


def test_truth_and_prediction_share_their_colours() -> None:
    truth, prediction = maps()
    panels, _ = depth_panels(truth, prediction)
    assert list(panels) == ["truth", "prediction", "error: white 0, red 1.00 m or more"]
    assert np.array_equal(panels["truth"][5:20], panels["prediction"][5:20])
    assert (panels["truth"][20:38] != panels["prediction"][20:38]).any(axis=2).all()


def test_unmeasured_pixels_are_black_and_only_they() -> None:
    truth, prediction = maps()
    panels, _ = depth_panels(truth, prediction)
    for panel in (panels["truth"], error_panel(panels)):
        assert (panel[:5] == BLACK).all()
        assert (panel[5:] != BLACK).any(axis=2).all()
    assert (panels["prediction"] != BLACK).any(axis=2).all()


def test_errors_go_from_white_to_red() -> None:
    truth, prediction = maps()
    errors = error_panel(depth_panels(truth, prediction)[0])
    assert (errors[5:20] == WHITE).all()
    assert (abs(errors[20:].astype(int) - RED) <= 1).all()
    assert colour_errors(np.array([[0.5]]), 1)[0, 0].tolist() == [round((255 + c) / 2) for c in RED]


def test_near_is_bright() -> None:
    brightness = colour_depths(np.linspace(1, 5, 20)[None], (1, 5)).astype(float) @ [0.299, 0.587, 0.114]
    assert (np.diff(brightness[0]) < 0).all()


def test_legend_tells_metres_by_their_colours() -> None:
    truth, prediction = maps()
    panels, legend = depth_panels(truth, prediction)
    metres = {float(name.split()[0]): colour for name, colour in legend.items() if not name.startswith("off")}
    assert min(metres) == pytest.approx(truth[truth > 0].min(), abs=0.1)
    assert max(metres) == pytest.approx(truth.max(), abs=0.1)
    for value, colour in metres.items():
        row, column = np.unravel_index(np.argmin(abs(truth - value)), truth.shape)
        assert abs(panels["truth"][row, column].astype(int) - colour).max() <= 4
    assert [name for name in legend if name.startswith("off")] == [f"off by {n:.2f} m" for n in (0.25, 0.5, 0.75, 1)]


@pytest.mark.parametrize("fill", [0, 3])
def test_maps_of_one_value_make_a_picture(fill: float) -> None:
    flat = torch.full((6, 8), float(fill))
    picture = draw(np.zeros((6, 8, 3), np.uint8), Prediction(depth=flat), Target("a", (6, 8), depth=flat), INFO)
    assert picture.dtype == np.uint8


def test_picture_without_truth_and_of_a_diverged_model() -> None:
    truth, prediction = maps()
    image = np.zeros((40, 50, 3), np.uint8)
    target = Target("a", (40, 50), depth=torch.from_numpy(truth))
    alone = draw(image, Prediction(depth=torch.from_numpy(prediction)), None, INFO)
    both = draw(image, Prediction(depth=torch.from_numpy(prediction)), target, INFO)
    assert both.shape[1] > 1.9 * alone.shape[1]
    for wild in (float("nan"), float("inf"), -1e30):
        prediction[7, 7] = wild
        assert draw(image, Prediction(depth=torch.from_numpy(prediction)), target, INFO).shape == both.shape
        draw(image, Prediction(depth=torch.full((40, 50), wild)), None, INFO)
