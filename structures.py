"""Leaf: the words that all folders share. A dataset fills `Target`, a model fills `Prediction`, a metric compares them.

Shape letters: B images, C channels, H W rows and columns, N objects, K classes. Sizes are (height, width).
Boxes are xyxy, absolute pixels, float.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from typing import Any, Self

import torch
from torch import Tensor

Size = tuple[int, int]
IGNORE = -1  # semantic label of a pixel that is neither trained on nor scored


def image_order(image_id: int | str) -> tuple[bool, int, str]:
    """Sort key for image ids, as in pycocotools: by number; ids that are not decimal numbers come last, by text."""
    text = str(image_id)
    is_number = text.isascii() and text.isdigit()
    return not is_number, int(text) if is_number else 0, text


@dataclass(frozen=True)
class DatasetInfo:
    """What a dataset says of itself; models and metrics are built from it, so no YAML repeats a class count.

    task: the kind of result, as printed in result files: semantic, detection, instance, panoptic or depth.
    classes: class names in label order. things: for panoptic data, which classes are things.
    max_depth: metres, for depth data.
    """

    task: str
    name: str
    classes: tuple[str, ...] = ()
    things: tuple[bool, ...] = ()
    max_depth: float | None = None

    @property
    def num_classes(self) -> int:
        """K."""
        return len(self.classes)


@dataclass
class Record:
    """A bundle of tensors and of further bundles, which moves between devices as one."""

    def apply(self, function: Callable[[Tensor], Tensor]) -> Self:
        """A copy in which every tensor, however deep, is replaced by `function` of it."""
        return replace(self, **{item.name: _applied(getattr(self, item.name), function) for item in fields(self)})

    def to(self, device: torch.device | str) -> Self:
        """A copy on `device`; towards an accelerator without waiting for the transfer."""
        on_cpu = torch.device(device).type == "cpu"
        return self.apply(lambda tensor: tensor.to(device, non_blocking=not on_cpu))

    def pin_memory(self) -> Self:
        """A copy in page-locked memory (called by PyTorch's data loader)."""
        return self.apply(Tensor.pin_memory)


def _applied(value: Any, function: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, Record):
        return value.apply(function)
    if isinstance(value, list):
        return [_applied(item, function) for item in value]
    return value


@dataclass
class Instances(Record):
    """Objects of one image: boxes [N, 4], labels [N] int64, scores [N], crowd [N] bool.

    Masks have two forms. masks: [N, H, W] bool, for training. rles: COCO's compressed run lengths, the `counts` of each
    object at the image's original size: for evaluation, where the bitmaps of a large image would not fit into memory.
    xywh: [N, 4] and areas: [N], float64, as they stand in a COCO file: what AP is computed from.
    """

    boxes: Tensor
    labels: Tensor
    masks: Tensor | None = None
    rles: list[bytes] | None = None
    scores: Tensor | None = None
    crowd: Tensor | None = None
    xywh: Tensor | None = None
    areas: Tensor | None = None

    def coco_boxes(self) -> Tensor:
        """Boxes as COCO files have them, [N, 4] float64 (x, y, width, height): `xywh`, else derived from `boxes`."""
        if self.xywh is not None:
            return self.xywh.double()
        boxes = self.boxes.double()
        return torch.cat([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], dim=1)


@dataclass
class Panoptic(Record):
    """A partition of one image: ids [H, W] int32 (0: void), and for each id in it category label and crowd flag."""

    ids: Tensor
    labels: dict[int, int]
    crowd: dict[int, bool] = field(default_factory=dict)


@dataclass
class Target(Record):
    """What is true of one image. In training at the size the network sees, in evaluation at the original size.

    image_id: names the image in files and errors. size: original (height, width).
    semantic: [H, W] int16, class labels or IGNORE. depth: [H, W] float32 metres, 0 = not measured.
    seed: in training, the start of whatever a model draws at random for this image, as the boxes that it learns from.
    """

    image_id: str
    size: Size
    semantic: Tensor | None = None
    instances: Instances | None = None
    panoptic: Panoptic | None = None
    depth: Tensor | None = None
    seed: int = 0


@dataclass
class Prediction(Record):
    """What a model says of one image, at its original size. Same field names and types as `Target`, on purpose."""

    semantic: Tensor | None = None
    instances: Instances | None = None
    panoptic: Panoptic | None = None
    depth: Tensor | None = None


@dataclass
class Batch(Record):
    """Images [B, 3, H, W] float32, normalised and padded; sizes: each image's (height, width) inside the padding."""

    images: Tensor
    sizes: list[Size]
    targets: list[Target]

    def to(self, device: torch.device | str, memory_format: torch.memory_format = torch.contiguous_format) -> "Batch":
        """A copy on `device`, the images in `memory_format`."""
        batch = super().to(device)
        batch.images = batch.images.contiguous(memory_format=memory_format)
        return batch
