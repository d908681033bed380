"""Add up the records of all images of a split: counts, histograms, and what ranks the images."""

from collections import Counter
from typing import Any

import numpy as np

from structures import DatasetInfo, Size
from tools.check_data.reading import DEPTH_BINS, SIDE_BINS, Reading, side_edges
from tools.pages.charts import Histogram

ASPECTS = 2 ** np.linspace(-2, 2, 25)  # edges of width / height, from 1:4 to 4:1
SHARES = np.linspace(0, 100, 21)  # edges of shares in percent


class Tally:
    """The sums over a split of `count` images. All fields are arrays of the number of images or of classes.

    read: [count] bool, which images could be read. images, objects, pixels: [K], how many images, objects, pixels have
    each class. digests: of the pixels, 16 bytes each. labelled, num_objects: [count], see `Reading`.
    """

    def __init__(self, info: DatasetInfo, count: int) -> None:
        self._max_depth = info.max_depth or 0.0
        self.read = np.zeros(count, bool)
        self.images, self.objects, self.pixels = np.zeros((3, info.num_classes), np.int64)
        self.digests = np.zeros(count, "V16")
        self.labelled, self.num_objects = np.zeros(count, np.float32), np.zeros(count, np.int32)
        self.sizes: Counter[Size] = Counter()
        self._sides, self._depths = np.zeros(SIDE_BINS, np.int64), np.zeros(DEPTH_BINS, np.int64)
        self.nearest, self.farthest = np.inf, 0.0

    def add(self, reading: Reading) -> None:
        """Add the record of an image that could be read."""
        index, labels = reading.index, reading.labels
        self.read[index] = True
        self.images[labels] += 1
        self.objects[labels] += reading.objects
        self.pixels[labels] += reading.pixels
        self.digests[index] = np.void(reading.digest)
        self.labelled[index], self.num_objects[index] = reading.labelled, reading.objects.sum()
        self.sizes[reading.size] += 1
        self._sides += reading.sides if reading.sides.size else 0
        self._depths += reading.depths if reading.depths.size else 0
        self.nearest, self.farthest = min(self.nearest, reading.nearest), max(self.farthest, reading.farthest)

    def image_sizes(self) -> tuple[np.ndarray, np.ndarray]:
        """The different sizes, [S, 2] (height, width), and the number of images of each, [S]."""
        return np.array(list(self.sizes)).reshape(-1, 2), np.array(list(self.sizes.values()))

    def object_sides(self) -> Histogram:
        """Objects by the square root of their area, in pixels."""
        return np.append(side_edges(), np.inf), self._sides

    def depths(self) -> Histogram:
        """Measured pixels by depth, in metres."""
        return np.linspace(0, self._max_depth, DEPTH_BINS + 1), self._depths

    def facts(self) -> dict[str, Any]:
        """Sizes, aspect ratios, objects and depths, for the JSON record."""
        facts: dict[str, Any] = {}
        if self.sizes:
            sizes = np.array(list(self.sizes))
            aspects = sizes[:, 1] / sizes[:, 0]
            (common, number), *_ = self.sizes.most_common(1)
            facts["sizes"] = {
                "different": len(self.sizes),
                "most_common": [*common, number],
                "height": [int(sizes[:, 0].min()), int(sizes[:, 0].max())],
                "width": [int(sizes[:, 1].min()), int(sizes[:, 1].max())],
            }
            facts["aspect_ratios"] = [round(float(aspects.min()), 4), round(float(aspects.max()), 4)]
        if self._sides.any():
            facts["objects"] = int(self.objects.sum())
            facts["images_without_objects"] = int((self.num_objects[self.read] == 0).sum())
            facts["most_objects"] = int(self.num_objects.max())
        if self._depths.any():
            facts["depth"] = [round(self.nearest, 4), round(self.farthest, 4)]
        if self.labelled.any():
            facts["labelled_share"] = round(float(self.labelled[self.read].mean(dtype=np.float64)), 4)
        return facts
