"""The data structures that all folders share.

A dataset fills `Target`, a model fills `Prediction`, a metric compares the two.

Shape letters: B images, C channels, H rows, W columns, N objects, K classes. Sizes are (height, width). Boxes are
(x1, y1, x2, y2) in pixels, float.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor

Size = tuple[int, int]
IGNORE = -1  # semantic label of pixels that are excluded from training and scoring


def image_sort_key(image_id: int | str) -> tuple[bool, int, str]:
    """Sort key for image ids, as in pycocotools: decimal numbers (below 10**19) by value, then other ids as text."""
    text = str(image_id)
    is_number = text.isascii() and text.isdigit() and len(text) < 20
    return not is_number, int(text) if is_number else 0, text


class ClassFrequencies(NamedTuple):
    """How often each class occurs, in order: its share in all labelled pixels, and in those of the images with it."""

    of_all: tuple[float, ...]
    where_present: tuple[float, ...]


@dataclass(frozen=True)
class DatasetInfo:
    """The properties of a dataset that models and metrics are built from, so no YAML repeats the number of classes.

    task: semantic, detection, instance, panoptic or depth; also printed in result files.
    classes: class names in label order. things: for panoptic data, whether each class is a thing.
    max_depth: for depth data, the largest depth in metres.
    frequencies: of the classes in the training labels, which it reads all; None where nothing is trained.
    """

    task: str
    name: str
    classes: tuple[str, ...] = ()
    things: tuple[bool, ...] = ()
    max_depth: float | None = None
    frequencies: Callable[[], ClassFrequencies] | None = None

    @property
    def num_classes(self) -> int:
        """The number of classes, K."""
        return len(self.classes)


@dataclass
class Record:
    """Base of dataclasses that hold tensors or other records; all of them move between devices together."""

    def apply(self, function: Callable[[Tensor], Tensor]) -> Self:
        """A copy with `function` applied to every tensor, including those in nested records and lists."""
        return replace(self, **{item.name: _apply(getattr(self, item.name), function) for item in fields(self)})

    def to(self, device: torch.device | str) -> Self:
        """A copy on `device`. Transfers to an accelerator are asynchronous (`non_blocking`)."""
        on_cpu = torch.device(device).type == "cpu"
        return self.apply(lambda tensor: tensor.to(device, non_blocking=not on_cpu))

    def pin_memory(self) -> Self:
        """A copy in page-locked memory (called by PyTorch's data loader)."""
        return self.apply(Tensor.pin_memory)


def _apply(value: Any, function: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, Record):
        return value.apply(function)
    if isinstance(value, list):
        return [_apply(item, function) for item in value]
    return value


@dataclass
class Instances(Record):
    """Objects of one image: boxes [N, 4], labels [N] int64, scores [N], crowd [N] bool or None if there is no crowd.

    Masks have two forms. masks: [N, H, W] bool, for training. rles: for each object the `counts` of COCO's compressed
    run-length encoding, at the image's original size; for evaluation, where the bitmaps of a large image would not fit
    into memory.
    xywh [N, 4] and areas [N], both float64: exactly as in a COCO file; AP is computed from them.
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
        """Boxes as in COCO files, [N, 4] float64 (x, y, width, height): `xywh`, or else computed from `boxes`."""
        if self.xywh is not None:
            return self.xywh.double()
        boxes = self.boxes.double()
        return torch.cat([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], dim=1)


@dataclass
class Panoptic(Record):
    """The segments of one image: ids [H, W] int32, the segment id of each pixel (0: void).

    labels, crowd: class label and crowd flag by segment id.
    """

    ids: Tensor
    labels: dict[int, int]
    crowd: dict[int, bool] = field(default_factory=dict)


@dataclass
class Target(Record):
    """The ground truth of one image: in training at the network's input size, in evaluation at the original size.

    image_id: names the image in files and errors. size: original (height, width).
    semantic: [H, W] int16, class labels or IGNORE. depth: [H, W] float32 in metres, 0 = not measured.
    seed: in training, the seed for the model's random choices on this image, such as which boxes it is trained on.
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
    """What a model predicts for one image, at its original size. Field names and types equal those of `Target`."""

    semantic: Tensor | None = None
    instances: Instances | None = None
    panoptic: Panoptic | None = None
    depth: Tensor | None = None


@dataclass
class Normalization(Record):
    """What is left to do with grey levels: (level - mean) / std per channel, and 0 beyond the pixels of each image.

    mean, std: [3] float32. sizes: (height, width) of each image, from its top left corner on.
    """

    mean: Tensor
    std: Tensor
    sizes: list[Size]

    def __call__(self, images: Tensor, memory_format: torch.memory_format) -> Tensor:
        """Images [B, H, W, 3] uint8 as [B, 3, H, W] float32 in `memory_format`."""
        result = images.permute(0, 3, 1, 2).to(torch.float32, memory_format=memory_format)
        result.sub_(self.mean[:, None, None]).div_(self.std[:, None, None])
        for image, (height, width) in zip(result, self.sizes, strict=True):
            image[:, height:] = 0
            image[:, :, width:] = 0
        return result


@dataclass
class Batch(Record):
    """Images [B, 3, H, W] float32, normalised and padded. sizes: (height, width) of each image without padding.

    normalization: None once it is done. A loader leaves it to `to`, which every batch passes through: its workers send
    grey levels, [B, H, W, 3] uint8, a quarter of the bytes.
    """

    images: Tensor
    sizes: list[Size]
    targets: list[Target]
    normalization: Normalization | None = None

    @property
    def image_ids(self) -> list[str]:
        """The ids of the images."""
        return [target.image_id for target in self.targets]

    def to(self, device: torch.device | str, memory_format: torch.memory_format = torch.contiguous_format) -> "Batch":
        """A copy on `device`, with the images normalised and in `memory_format`."""
        batch = super().to(device)
        if batch.normalization is not None:
            batch.images, batch.normalization = batch.normalization(batch.images, memory_format), None
        batch.images = batch.images.contiguous(memory_format=memory_format)
        return batch
