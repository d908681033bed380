from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from datasets.semantic.predictions import SemanticFiles
from errors import UserError
from structures import Prediction, Target


@pytest.mark.parametrize(("num_classes", "dtype"), [(3, np.uint8), (256, np.uint8), (257, np.uint16), (300, np.uint16)])
def test_round_trip(tmp_path: Path, num_classes: int, dtype: type) -> None:
    files = SemanticFiles(tmp_path / "new" / "folder", num_classes)
    labels = torch.randint(num_classes, (5, 7), generator=torch.Generator().manual_seed(0)).to(torch.int16)
    labels[0, 0] = num_classes - 1
    target = Target("ADE_val_1", (5, 7))
    files.write(Prediction(semantic=labels), target)
    files.finish()
    picture = Image.open(tmp_path / "new/folder/ADE_val_1.png")
    stored = np.asarray(picture)
    assert stored.dtype == dtype
    assert picture.mode == ("P" if dtype is np.uint8 else "I;16")
    assert np.array_equal(stored, labels)
    semantic = files.read(target).semantic
    assert semantic is not None
    assert semantic.dtype == torch.int16
    assert torch.equal(semantic, labels)


def test_classes_are_seen_in_colours(tmp_path: Path) -> None:
    """OpenCV and Pillow, which both check the file's checksums, show the colours of VOC's palette."""
    labels = torch.tensor([[0, 1], [2, 15]], dtype=torch.int16)
    SemanticFiles(tmp_path, 21).write(Prediction(semantic=labels), Target("a", (2, 2)))
    voc = [[(0, 0, 0), (128, 0, 0)], [(0, 128, 0), (192, 128, 128)]]
    assert np.asarray(Image.open(tmp_path / "a.png").convert("RGB")).tolist() == [[list(c) for c in row] for row in voc]
    assert cv2.imread(str(tmp_path / "a.png"))[:, :, ::-1].tolist() == [[list(c) for c in row] for row in voc]


def test_names_may_contain_dots(tmp_path: Path) -> None:
    SemanticFiles(tmp_path, 2).write(Prediction(semantic=torch.zeros(2, 2, dtype=torch.int16)), Target("a.b", (2, 2)))
    assert (tmp_path / "a.b.png").exists()


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (None, r"a\.png: no such file; predict image a"),
        (np.zeros((4, 5), np.uint8), r"a\.png: is 5 x 4 pixels \(width x height\) but its image is 4 x 4"),
        (np.full((4, 4), 3, np.uint8), r"a\.png: value 3 is not a class \(0 to 2\)"),
        (np.full((4, 4), 65535, np.uint16), r"a\.png: value 65535 is not a class"),
        (np.zeros((4, 4, 3), np.uint8), r"a\.png: has pixels of kind RGB"),
    ],
)
def test_unusable_files_are_refused_in_one_line(tmp_path: Path, labels: np.ndarray | None, message: str) -> None:
    if labels is not None:
        cv2.imwrite(str(tmp_path / "a.png"), labels)
    with pytest.raises(UserError, match=message) as error:
        SemanticFiles(tmp_path, 3).read(Target("a", (4, 4)))
    assert "\n" not in str(error.value)


def test_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    files = SemanticFiles(tmp_path / "file", 2)
    with pytest.raises(UserError, match="cannot be written"):
        files.write(Prediction(semantic=torch.zeros(2, 2, dtype=torch.int16)), Target("a", (2, 2)))
