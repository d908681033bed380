"""The graph of a whole prediction: what `predict` finds in one image, at the image's original size."""

import torch
from torch import Tensor, nn

from models.base import DenseModel
from structures import Size
from tools.export_onnx.graph import Graph


class WholePrediction(nn.Module):
    """`predict_tensors` of a model as a module. Its outputs are a tuple, in the order of the names in `Graph`."""

    def __init__(self, model: DenseModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor, unpadded: Tensor, size: Tensor) -> tuple[Tensor, ...]:
        """Images [1, C, H, W], unpadded and size [2] int64; see DenseModel.predict_tensors."""
        return tuple(self.model.predict_tensors(images, unpadded, size).values())


@torch.no_grad()
def full_graph(model: DenseModel, size: Size) -> Graph:
    """The graph of `model.predict_tensors` for an image of `size`, which is rounded up to what the model takes.

    Its example is an image with some padding that is resized, so that the tracer takes none of the sizes for equal.
    """
    divisor = model.size_divisor
    height, width = (-(-side // divisor) * divisor for side in size)
    inputs = {
        "images": torch.randn(1, model.backbone.in_channels, height, width, generator=torch.Generator().manual_seed(0)),
        "unpadded": torch.tensor([height - 1, width - 2]),
        "size": torch.tensor([height + 3, width + 5]),
    }
    model.eval()
    outputs = tuple(model.predict_tensors(**inputs))
    axes = {2: f"{divisor}*height", 3: f"{divisor}*width"}
    return Graph(WholePrediction(model).eval(), inputs, outputs, {"images": axes})
