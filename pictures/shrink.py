"""Make an image and what belongs to it small enough for a picture. Predictions themselves keep their size."""

from dataclasses import replace
from typing import TypeVar

import cv2
import numpy as np
import torch
from pycocotools import mask as coco_mask
from torch import Tensor

from structures import Instances, Prediction, Size, Target

Labels = TypeVar("Labels", Prediction, Target)

LONGEST_PANEL = 1600  # pixels; of a photo of 24 megapixels, two panels at full size would take 12,000 and 19 MB


class Shrinker:
    """Brings whatever has `size` to at most LONGEST_PANEL pixels on its longer side."""

    def __init__(self, size: Size) -> None:
        scale = min(1.0, LONGEST_PANEL / max(size))
        self.size: Size = size
        self.small: Size = (max(1, round(size[0] * scale)), max(1, round(size[1] * scale)))
        # The pixel of the original at the centre of each small one.
        self._rows, self._columns = (
            ((torch.arange(small) + 0.5) * (whole / small)).long()
            for whole, small in zip(self.size, self.small, strict=True)
        )

    def image(self, image: np.ndarray) -> np.ndarray:
        """The image [H, W, 3] uint8, averaged."""
        if self.small == self.size:
            return image
        return cv2.resize(image, self.small[::-1], interpolation=cv2.INTER_AREA)

    def labels(self, labels: Labels) -> Labels:
        """A prediction or an annotation; of maps and masks the nearest pixel is taken."""
        if self.small == self.size:
            return labels
        panoptic, instances = labels.panoptic, labels.instances
        return replace(
            labels,
            semantic=None if labels.semantic is None else self._pick(labels.semantic),
            depth=None if labels.depth is None else self._pick(labels.depth),
            panoptic=None if panoptic is None else replace(panoptic, ids=self._pick(panoptic.ids)),
            instances=None if instances is None else self._objects(instances),
        )

    def _objects(self, objects: Instances) -> Instances:
        factors = [small / whole for whole, small in zip(self.size, self.small, strict=True)][::-1]
        return replace(
            objects,
            boxes=objects.boxes * objects.boxes.new_tensor(factors * 2),
            masks=None if objects.masks is None else self._pick(objects.masks),
            rles=None if objects.rles is None else [self._run_lengths(counts) for counts in objects.rles],
            xywh=None,
            areas=None,
        )

    def _pick(self, maps: Tensor) -> Tensor:
        return maps[..., self._rows.to(maps.device)[:, None], self._columns.to(maps.device)]

    def _run_lengths(self, counts: bytes) -> bytes:
        mask = torch.from_numpy(coco_mask.decode({"size": list(self.size), "counts": counts}))
        small: bytes = coco_mask.encode(np.asfortranarray(self._pick(mask).numpy()))["counts"]
        return small
