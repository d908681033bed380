from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from config import validate
from datasets.semantic.ade20k import ADE20KConfig

RESIZE = {"name": "resize_fit", "long": 64, "short": 32}


@pytest.fixture
def make_config(tmp_path: Path) -> Callable[..., ADE20KConfig]:
    def make(**options: Any) -> ADE20KConfig:
        defaults = {"root": str(tmp_path), "train_transforms": ["normalize"], "test_transforms": [RESIZE, "normalize"]}
        return validate(ADE20KConfig, {**defaults, **options}, "data")

    return make


@pytest.fixture
def layout(tmp_path: Path) -> Path:
    """The official folders with three training and two validation images of different sizes."""
    rng = np.random.default_rng(0)
    for split, sizes in (("training", [(20, 30), (31, 17), (24, 24)]), ("validation", [(20, 31), (33, 18)])):
        for kind in ("images", "annotations"):
            (tmp_path / kind / split).mkdir(parents=True)
        for number, (height, width) in enumerate(sizes):
            stem = f"ADE_{split}_{number}"
            image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
            cv2.imwrite(str(tmp_path / "images" / split / f"{stem}.jpg"), image)
            labels = rng.integers(0, 151, (height, width), dtype=np.uint8)
            cv2.imwrite(str(tmp_path / "annotations" / split / f"{stem}.png"), labels)
    return tmp_path
