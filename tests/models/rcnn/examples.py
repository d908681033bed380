"""A small Mask R-CNN and random batches with objects, for the tests of detectors."""

from dataclasses import replace

import torch
from pydantic import TypeAdapter

from models import ModelConfig
from models.rcnn.model import RCNN
from structures import Batch, DatasetInfo, Instances, Size, Target

INFO = DatasetInfo("instance", "any", tuple("abcde"))
SMALL = {
    "backbone": {"name": "mit_b0", "channels": [8, 16, 40, 64], "depths": [1, 1, 1, 1], "drop_path": 0},
    "channels": 32,
    "box_head": {"channels": 32, "best_match": True},
    "rpn": {"anchors": {"scale": 4}},
}


def build(name: str = "mask_rcnn", upsampler: object = "nearest", seed: int = 0, **options: object) -> RCNN:
    """A detector with a tiny backbone."""
    torch.manual_seed(seed)
    extra = {"mask_channels": 32} if name == "mask_rcnn" else {}
    config = {"name": name, "upsampler": upsampler, **SMALL, **extra, **options}
    info = INFO if name == "mask_rcnn" else replace(INFO, task="detection")
    return TypeAdapter(ModelConfig).validate_python(config).build(info)


def instances(boxes: list[list[float]], size: Size, crowd: list[bool] | None = None) -> Instances:
    """Objects whose masks fill their boxes; labels count up."""
    masks = torch.zeros(len(boxes), *size, dtype=torch.bool)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes, strict=True):
        mask[int(y1) : int(y2), int(x1) : int(x2)] = True
    return Instances(
        boxes=torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        labels=torch.arange(len(boxes)) % INFO.num_classes,
        masks=masks,
        crowd=torch.tensor(crowd or [False] * len(boxes), dtype=torch.bool),
    )


def batch(objects: list[list[list[float]]], size: Size = (128, 192), inside: Size | None = None) -> Batch:
    """Random images of `size` with these boxes; their content ends at `inside`."""
    generator = torch.Generator().manual_seed(1)
    inside = inside or size
    targets = [
        Target(str(index), inside, instances=instances(boxes, size), seed=index) for index, boxes in enumerate(objects)
    ]
    return Batch(torch.randn(len(objects), 3, *size, generator=generator), [inside] * len(objects), targets)
