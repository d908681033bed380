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
from structures import Batch, DatasetInfo, Prediction, Size

KEPT = 1 << 26  # numbers of sums that wait for the next row of windows: 256 MiB


class MapInference(PartsInference):
    """Predicts class maps or depth maps.

    The views of a window are averaged, and the windows are added up with their weights, at the original size. Of these
    sums only those are kept that the next row of windows adds to. If these are too many, because the image is wide or
    has many classes, it is predicted in bands from top to bottom, one after the other. The windows that reach over the
    edge of a band are predicted for both of its sides, so the result is the same.
    """

    def __init__(
        self, model: DenseModel, transforms: Sequence[Transform], settings: InferenceConfig, info: DatasetInfo
    ) -> None:
        super().__init__(model, transforms, settings)
        self.is_depth = info.task == "depth"
        self._channels = 1 if self.is_depth else info.num_classes

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
        result = torch.empty(size, dtype=torch.float32 if self.is_depth else torch.int16, device=image.device)
        overlap = max(row.end - bottom for row, bottom in _with_ends(rows))
        for first, end, windows in bands(columns, KEPT // max(1, self._channels * overlap)):
            kept = torch.zeros(self._channels, overlap, end - first, device=image.device)
            self._fill_band(result[:, first:end], image, rows, windows, first, kept)
        return result

    def _fill_band(
        self, result: Tensor, image: Tensor, rows: Sequence[Window], columns: Sequence[Window], first: int, kept: Tensor
    ) -> None:
        """Predict the pixels `result` [H, w] of a band, which starts at column `first` of the original image.

        columns: the windows that reach into it. kept: room for the sums that the next row of windows adds to.
        """
        carried = 0  # rows of `kept` that hold sums of earlier windows
        for row, bottom in _with_ends(rows):
            for left, block in self._blocks(image, row, columns):
                block = block[:, :, max(0, first - left) : max(0, first + result.shape[1] - left)]
                start = max(0, left - first)
                place = slice(start, start + block.shape[2])
                block[:, :carried] += kept[:, :carried, place]
                ready, rest = block.split([bottom - row.first, row.end - bottom], dim=1)
                result[row.first : bottom, place] = ready[0] if self.is_depth else ready.argmax(dim=0)
                kept[:, : row.end - bottom, place] = rest
                del block, ready, rest  # before the next ones are made
            carried = row.end - bottom

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
            del block  # before the next one is made

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
        return column.resize(row.resize(maps, dim=1), dim=2).mul_(weights / len(views))


def bands(columns: Sequence[Window], widest: int) -> Iterator[tuple[int, int, list[Window]]]:
    """Parts of an image's width, as (first, end, windows that reach into it), no wider than `widest` if possible.

    They start where windows start; `columns` are the windows along the width, from left to right.
    """
    start = 0
    while start < len(columns):
        stop = start + 1
        first = columns[start].first
        while stop < len(columns) and _end(columns, stop + 1) - first <= widest:
            stop += 1
        yield first, _end(columns, stop), [column for column in columns[:stop] if column.end > first]
        start = stop


def _end(columns: Sequence[Window], stop: int) -> int:
    """Where the pixels end that the first `stop` windows complete."""
    return columns[stop].first if stop < len(columns) else columns[-1].end


def _with_ends(windows: Sequence[Window]) -> Iterator[tuple[Window, int]]:
    """Every window, and where the next one starts: up to there no later window adds to its pixels."""
    for window, following in itertools.zip_longest(windows, windows[1:]):
        yield window, window.end if following is None else following.first
