"""An exported whole prediction in the place of the model it was exported from: the network itself is never built."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from pycocotools import mask as coco_mask
from torch import Tensor

from errors import UserError
from models.base import DenseModel
from structures import Batch, Instances, Panoptic, Prediction, Size
from workflow.onnx_metadata import read_metadata
from workflow.onnx_runtime import open_session


class OnnxModel(DenseModel):
    """Predicts with onnxruntime on the CPU, one image at a time. It has no weights, so it cannot be trained.

    path: a file of `tools.export_onnx --full`. Raises UserError if it is none, or if onnxruntime is missing.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self.metadata = read_metadata(path)
        if self.metadata.format != "full":
            raise UserError(path, "gives raw outputs, which are no predictions", "export it again with --full")
        self.size_divisor = self.metadata.preprocessing["size_divisor"]
        self._session = open_session(path)
        self._outputs = [output.name for output in self._session.get_outputs()]
        # The sides of the images that it takes: numbers, or names if they may be any.
        self._sides = next(item.shape[2:] for item in self._session.get_inputs() if item.name == "images")

    def outputs(self, images: Tensor) -> dict[str, Any]:
        """Raises UserError: a whole prediction has no raw outputs."""
        raise UserError(self.path, "gives predictions, no raw outputs", "use the checkpoint that it is exported from")

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Raises UserError: there is nothing to train."""
        raise UserError(self.path, "cannot be trained", "use the checkpoint that it is exported from")

    def predict_tensors(self, images: Tensor, unpadded: Tensor, size: Tensor) -> dict[str, Tensor]:
        """See DenseModel. Images are padded to the size that the file takes. Raises UserError for larger ones."""
        inputs = {"images": self._padded(images), "unpadded": unpadded, "size": size}
        found = self._session.run(self._outputs, {name: value.cpu().numpy() for name, value in inputs.items()})
        return {name: torch.from_numpy(value) for name, value in zip(self._outputs, found, strict=True)}

    def maps(self, images: Tensor, unpadded: Size) -> Tensor:
        """Raises UserError: a whole prediction has labels alone."""
        advice = "use the checkpoint that it is exported from, or set evaluation.inference=null"
        raise UserError(self.path, "gives labels or depths of whole images, which are not blended", advice)

    def predict(self, batch: Batch) -> list[Prediction]:
        """See DenseModel."""
        images = zip(batch.images.split(1), batch.sizes, batch.targets, strict=True)
        return [
            prediction_of(self.predict_tensors(image, torch.tensor(unpadded), torch.tensor(target.size)))
            for image, unpadded, target in images
        ]

    def _padded(self, images: Tensor) -> Tensor:
        missing = [
            0 if isinstance(wanted, str | None) else wanted - given
            for wanted, given in zip(self._sides, images.shape[2:], strict=True)
        ]
        if min(missing) < 0:
            taken, given = (" x ".join(map(str, sides)) for sides in (self._sides, images.shape[2:]))
            what = f"takes images of {taken}, this one is padded to {given}"
            raise UserError(self.path, what, "export it again with --dynamic or a larger --size")
        return F.pad(images, (0, missing[1], 0, missing[0]))


def prediction_of(tensors: dict[str, Tensor]) -> Prediction:
    """The result of `DenseModel.predict_tensors` as `DenseModel.predict` returns it."""
    if "semantic" in tensors:
        return Prediction(semantic=tensors["semantic"].to(torch.int16))
    if "depth" in tensors:
        return Prediction(depth=tensors["depth"])
    if "ids" in tensors:
        return Prediction(panoptic=Panoptic(tensors["ids"], dict(enumerate(tensors["segment_labels"].tolist(), 1))))
    rles = None
    if "masks" in tensors:
        masks = tensors["masks"].numpy().astype(np.uint8)
        rles = [coco_mask.encode(np.asfortranarray(mask))["counts"] for mask in masks]
    return Prediction(instances=Instances(tensors["boxes"], tensors["labels"], scores=tensors["scores"], rles=rles))
