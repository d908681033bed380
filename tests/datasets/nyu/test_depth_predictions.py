import json
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from config import validate
from datasets.files.images import write_png
from datasets.nyu.dataset import NYUConfig
from datasets.nyu.predictions import DepthFiles
from errors import UserError, run_command
from metrics.depth_errors import DepthErrorsConfig
from structures import Prediction, Target
from tests.conftest import ROOT
from tools import score

TARGET = Target("kitchen_rgb_00045", (5, 7))


def prediction(low: float = 0.001, high: float = 10, seed: int = 0) -> Prediction:
    generator = torch.Generator().manual_seed(seed)
    return Prediction(depth=torch.empty(5, 7).uniform_(low, high, generator=generator))


def test_round_trip_to_the_nearest_millimetre(tmp_path: Path) -> None:
    files = DepthFiles(tmp_path / "new" / "folder", 10)
    given = prediction()
    files.write(given, TARGET)
    files.finish()
    stored = cv2.imread(str(tmp_path / "new/folder/kitchen_rgb_00045.png"), cv2.IMREAD_UNCHANGED)
    read = files.read(TARGET).depth
    assert given.depth is not None
    assert read is not None
    assert stored.dtype == np.uint16
    assert np.array_equal(stored, [[round(value * 1000) for value in row] for row in given.depth.tolist()])
    assert read.dtype == torch.float32
    assert torch.equal(read, torch.from_numpy((stored / 1000).astype(np.float32)))
    assert (read - given.depth).abs().max() <= 0.0005001


def test_the_ends_of_the_range(tmp_path: Path) -> None:
    files = DepthFiles(tmp_path, 65.535)
    files.write(Prediction(depth=torch.tensor([[0.0, 1e-9, 0.0016], [65.535, 70.0, 1e30]])), Target("a", (2, 3)))
    stored = cv2.imread(str(tmp_path / "a.png"), cv2.IMREAD_UNCHANGED)
    assert stored.tolist() == [[1, 1, 2], [65535] * 3]


@pytest.mark.parametrize(
    ("max_depth", "scale"),
    [(10, None), (65.535, None), (80, "256"), (255.9, "256"), (655, "100"), (6553.5, "10"), (60000, "1")],
)
def test_the_file_states_its_units_unless_they_are_millimetres(
    tmp_path: Path, max_depth: float, scale: str | None
) -> None:
    DepthFiles(tmp_path, max_depth).write(Prediction(depth=torch.full((2, 3), max_depth)), Target("a", (2, 3)))
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.text.get("depth_scale") == scale  # type: ignore[attr-defined]
        assert np.asarray(picture)[0, 0] == round(max_depth * float(scale or 1000))


@pytest.mark.parametrize("max_depth", [80, 655, 70000, 1e6])
def test_any_depth_is_read_back_to_the_nearest_unit(tmp_path: Path, max_depth: float) -> None:
    files, given = DepthFiles(tmp_path, max_depth), prediction(0.01 * max_depth, max_depth)
    files.write(given, TARGET)
    read = DepthFiles(tmp_path, 10).read(TARGET).depth  # the scale is that of the file
    assert read is not None
    assert given.depth is not None
    assert (read - given.depth).abs().max() <= max(1 / 512, max_depth / 65535 * 0.8)


@pytest.mark.parametrize("text", ["wide", "0", "-1", "nan", "inf"])
def test_impossible_units_are_refused(tmp_path: Path, text: str) -> None:
    write_png(tmp_path / f"{TARGET.image_id}.png", np.full(TARGET.size, 9, np.uint16), {"depth_scale": text})
    with pytest.raises(UserError, match="is not a number of units per metre"):
        DepthFiles(tmp_path, 10).read(TARGET)


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_diverged_predictions_are_refused(tmp_path: Path, wrong: float) -> None:
    with pytest.raises(UserError, match="kitchen_rgb_00045 has predicted depths that are not finite"):
        DepthFiles(tmp_path, 10).write(Prediction(depth=torch.full((5, 7), wrong)), TARGET)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (None, r"kitchen_rgb_00045\.png: no such file; predict image kitchen_rgb_00045"),
        (np.full((7, 5), 900, np.uint16), r"is 5 x 7 pixels \(width x height\) but its image is 7 x 5"),
        (np.full((5, 7), 90, np.uint8), "has 8 bits per pixel"),
        (np.full((5, 7, 3), 90, np.uint8), "has pixels of kind RGB"),
        (np.arange(35, dtype=np.uint16).reshape(5, 7)[::-1], "value 0 at row 4, column 0 is not a distance"),
    ],
)
def test_unusable_files_are_refused_in_one_line(tmp_path: Path, values: np.ndarray | None, message: str) -> None:
    if values is not None:
        cv2.imwrite(str(tmp_path / "kitchen_rgb_00045.png"), values)
    with pytest.raises(UserError, match=message) as error:
        DepthFiles(tmp_path, 10).read(TARGET)
    assert "\n" not in str(error.value)


def test_hardly_trained_predictions_can_be_scored(tmp_path: Path) -> None:
    files = DepthFiles(tmp_path, 10)
    files.write(Prediction(depth=torch.full((5, 7), 0.001)), TARGET)
    assert files.read(TARGET).depth is not None


def test_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be written"):
        DepthFiles(tmp_path / "file", 10).write(prediction(), TARGET)


@pytest.mark.parametrize("scale", [1000, 100, 10])  # units per metre of the truth: rooms of 10, 80 and 655 m
def test_scoring_files_needs_no_image_and_gives_the_numbers_of_the_predictions(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scale: float
) -> None:
    root = tmp_path / "nyu"
    root.mkdir()
    (root / "nyu_test.txt").write_bytes((scenes / "nyu/nyu_test.txt").read_bytes())
    for path in (scenes / "nyu").rglob("*.png"):
        (root / path.relative_to(scenes / "nyu")).parent.mkdir(exist_ok=True)
        (root / path.relative_to(scenes / "nyu")).write_bytes(path.read_bytes())
    transforms = {"train_transforms": ["normalize"], "test_transforms": ["normalize"]}
    options = {"depth_scale": scale, "max_depth": {1000: 10, 100: 80, 10: 655}[scale]}
    config = validate(NYUConfig, {"root": str(root), **options, **transforms}, "data")
    dataset, files = config.build("val", annotations_only=True), config.prediction_files(tmp_path / "predictions")
    metric = DepthErrorsConfig().build(config.info)
    for index in range(len(dataset)):
        target = dataset.target(index)
        guess = Prediction(
            depth=torch.empty(target.size).uniform_(
                1000 / scale, 6000 / scale, generator=torch.Generator().manual_seed(index)
            )
        )
        files.write(guess, target)
        metric.update([guess], [target])
    limits = f"depth_scale: {scale}, max_depth: {options['max_depth']}"
    data = f"data={{name: nyu, root: {root}, {limits}, train_transforms: [normalize], test_transforms: [normalize]}}"
    arguments = ["--cfg", ROOT / "configs/small/seg.yaml", data, "metrics=[depth_errors]"]  # the model is not built
    arguments += ["--predictions", tmp_path / "predictions", "--json", tmp_path / "result.json"]
    monkeypatch.setattr(sys, "argv", ["score", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        run_command(score.main)
    assert stop.value.code == 0
    result = json.loads((tmp_path / "result.json").read_text())
    assert (result["task"], result["num_images"], result["per_class"]) == ("depth", 5, [])
    assert result["protocol"]["depth_crop"].startswith("eigen: rows 45:471")
    for name, value in metric.compute().items():
        assert result["metrics"][name] == pytest.approx(value, rel=2e-3)
