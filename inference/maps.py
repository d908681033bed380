"""Class maps and depth maps from windows and views: means of probabilities or depths, in bounded memory."""

import itertools
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from datasets.base import Transform
from inference.base import PartsInference
from inference.settings import InferenceConfig
from inference.windows import Window
from models.base import DenseModel
from structures import Batch, Prediction, Size


class MapInference(PartsInference):
    """Predicts class maps or depth maps.

    The views of a window are averaged, and the windows are added up with their weights, at the original size. Of these
    sums only those are kept that the next row of windows adds to: K x overlap x width numbers, float32.
    """

    def __init__(
        self, model: DenseModel, transforms: Sequence[Transform], settings: InferenceConfig, *, is_depth: bool
    ) -> None:
        super().__init__(model, transforms, settings)
        self.is_depth = is_depth

    @torch.no_grad()
    def predict(self, batch: Batch) -> list[Prediction]:
        """See Inference."""
        maps = [
            self._blended(image[:, : size[0], : size[1]], target.size)
            for image, size, target in zip(batch.images, batch.sizes, batch.targets, strict=True)
        ]
        return [Prediction(depth=each) if self.is_depth else Prediction(semantic=each) for each in maps]

    def _blended(self, image: Tensor, size: Size) -> Tensor:
        """Labels [H, W] int16 or depths [H, W] float32, at the original `size`, of an image [C, h, w]."""
        rows, columns = self.grid((image.shape[1], image.shape[2]), size, image.device)
        overlap = max(row.end - bottom for row, bottom in _with_ends(rows))
        result = kept = None
        carried = 0  # rows of `kept` that hold sums of earlier windows
        for row, bottom in _with_ends(rows):
            for left, block in self._blocks(image, row, columns):
                if result is None or kept is None:
                    result = block.new_empty(size, dtype=torch.float32 if self.is_depth else torch.int16)
                    kept = block.new_zeros(len(block), overlap, size[1])
                place = slice(left, left + block.shape[2])
                block[:, :carried] += kept[:, :carried, place]
                ready, rest = block.split([bottom - row.first, row.end - bottom], dim=1)
                result[row.first : bottom, place] = ready[0] if self.is_depth else ready.argmax(dim=0)
                kept[:, : row.end - bottom, place] = rest
            carried = row.end - bottom
        assert result is not None
        return result

    def _blocks(self, image: Tensor, row: Window, columns: Sequence[Window]) -> Iterator[tuple[int, Tensor]]:
        """Weighted sums over a row of windows, from left to right: (first column, [K, height of the row, columns])."""
        right: Tensor | None = None  # sums of the columns that the next window adds to
        for column, end in _with_ends(columns):
            block = self._window(image, row, column)
            if right is not None:
                block[:, :, : right.shape[2]] += right
            width = end - column.first
            right = block[:, :, width:].clone()
            yield column.first, block[:, :, :width]

    def _window(self, image: Tensor, row: Window, column: Window) -> Tensor:
        """The maps [K, h, w] of one window at the original size, times their weights."""
        maps: Tensor | None = None
        views = list(self.views(image[:, row.start : row.stop, column.start : column.stop]))
        for view in views:
            found = self.model.maps(view.images, view.size)
            found = found.flip(3) if view.mirrored else found
            size = row.stop - row.start, column.stop - column.start
            if view.size != size:
                found = F.interpolate(found, size, mode="bilinear", antialias=view.size[0] > size[0])
            maps = found[0] if maps is None else maps + found[0]
        assert maps is not None
        weights = row.weights[:, None] * column.weights
        return column.resize(row.resize(maps, dim=1), dim=2) * (weights / len(views))


def _with_ends(windows: Sequence[Window]) -> Iterator[tuple[Window, int]]:
    """Every window, and where the next one starts: up to there no later window adds to its pixels."""
    for window, following in itertools.zip_longest(windows, windows[1:]):
        yield window, window.end if following is None else following.first
