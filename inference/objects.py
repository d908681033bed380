"""Boxes and masks from windows (tiles) and views, merged."""

from dataclasses import replace

import numpy as np
import torch
from pycocotools import mask as mask_utils
from torch import Tensor

from inference.base import PartsInference, View
from inference.merging import merge
from structures import Batch, Instances, Prediction, Size, Target


class ObjectInference(PartsInference):
    """Predicts boxes and masks: of every window and view, all put in place and merged."""

    @torch.no_grad()
    def predict(self, batch: Batch) -> list[Prediction]:
        """See Inference. On CPU."""
        return [
            Prediction(instances=self._merged(image[:, : size[0], : size[1]], target))
            for image, size, target in zip(batch.images, batch.sizes, batch.targets, strict=True)
        ]

    def _merged(self, image: Tensor, target: Target) -> Instances:
        rows, columns = self.grid((image.shape[1], image.shape[2]), target.size, torch.device("cpu"))
        found = [
            self._found(image, (row.start, row.stop), (column.start, column.stop), view, target)
            for row in rows
            for column in columns
            for view in self.views(image[:, row.start : row.stop, column.start : column.stop])
        ]
        rles = [part.rles for part in found]
        everything = Instances(
            torch.cat([part.boxes for part in found]),
            torch.cat([part.labels for part in found]),
            scores=torch.cat([part.scores for part in found if part.scores is not None]),
            rles=None if rles[0] is None else [rle for part in rles for rle in part or ()],
        )
        return merge(everything, self.settings.merge, target.size)

    def _found(
        self, image: Tensor, rows: tuple[int, int], columns: tuple[int, int], view: View, target: Target
    ) -> Instances:
        """What is found in a view of the window with these rows and columns of the image, in its place in the image.

        Boxes are placed exactly, masks to the pixel.
        """
        factor = np.array(target.size) / image.shape[1:]
        (top, bottom), (left, right) = np.rint(np.array([rows, columns]) * factor[:, None]).astype(int).tolist()
        size = max(1, bottom - top), max(1, right - left)
        batch = Batch(view.images, [view.size], [replace(target, size=size)])
        found = self.model.predict(batch)[0].instances
        assert found is not None
        found = found.to("cpu")
        boxes = found.boxes
        if view.mirrored:
            boxes = torch.stack([size[1] - boxes[:, 2], boxes[:, 1], size[1] - boxes[:, 0], boxes[:, 3]], dim=1)
        exact = [(columns[1] - columns[0]) * factor[1] / size[1], (rows[1] - rows[0]) * factor[0] / size[0]]
        corner = [columns[0] * factor[1], rows[0] * factor[0]]
        boxes = boxes * boxes.new_tensor(exact * 2) + boxes.new_tensor(corner * 2)
        rles = found.rles
        if rles is not None:
            rles = [placed(rle, size, view.mirrored, (top, left), target.size) for rle in rles]
        return replace(found, boxes=boxes, rles=rles)


def placed(rle: bytes, size: Size, mirrored: bool, corner: tuple[int, int], whole: Size) -> bytes:
    """The mask of a window as a mask of the `whole` image. Never at full size as bitmap.

    rle: COCO's compressed run lengths of a mask of `size`. mirrored: whether to mirror it back. corner: the window's
    top and left in the image.
    """
    mask = mask_utils.decode({"size": list(size), "counts": rle})[: whole[0] - corner[0]]
    columns = (mask[:, ::-1] if mirrored else mask)[:, : whole[1] - corner[1]].T
    edges = np.diff(np.pad(columns, ((0, 0), (1, 1))).astype(np.int8), axis=1)  # 1 where a run starts, -1 where it ends
    across, down = np.nonzero(edges)  # column by column, so starts and ends alternate
    ends = (across + corner[1]) * whole[0] + down + corner[0]
    touching = np.flatnonzero(ends[1:-1:2] == ends[2::2])  # a run that goes on at the top of the next column
    ends = np.delete(ends, np.concatenate([2 * touching + 1, 2 * touching + 2]))
    runs = np.diff(ends, prepend=0, append=whole[0] * whole[1])
    if runs[-1] == 0:
        runs = runs[:-1]
    counts: bytes = mask_utils.frPyObjects({"size": list(whole), "counts": runs.tolist()}, *whole)["counts"]
    return counts
