"""ResNet-50 and ResNet-101 as encoders of detectors. He et al., CVPR 2016.

We use the modules of torchvision, so the stride is in the 3x3 convolutions. Detectors fine-tune ResNet with fixed
batch-norm statistics. Such a norm only scales and shifts each channel, so it is folded into the weights of the
convolution before it. This gives the same function and gradients, and saves two passes over every activation.
"""

from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from config import Schema
from models.base import Backbone, FeatureInfo
from models.weights import IMAGENET, Published, Source, load_pretrained

PARTS = ("stem", "layer1", "layer2", "layer3", "layer4")
CHANNELS, STRIDES = (256, 512, 1024, 2048), (4, 8, 16, 32)


class ResNetConfig(Schema):
    """A ResNet. weights: a file of converted weights; see models/weights.py. Without them it can be built, not trained.

    frozen: how many parts, counted from the first of PARTS, keep their weights.
    """

    name: Literal["resnet50", "resnet101"]
    weights: Source | None = IMAGENET
    frozen: int = Field(2, ge=0, le=len(PARTS))

    @property
    def published(self) -> Published:
        """Torchvision's IMAGENET1K_V1, the weights that detection recipes start from."""
        return Published(f"{self.name}_imagenet")

    @property
    def fixed(self) -> str:
        """What training does not change: the statistics of all normalisations, and the frozen parts."""
        frozen = [f"the weights of {', '.join(PARTS[: self.frozen])}"] if self.frozen else []
        return " and ".join([*frozen, "the statistics of the batch normalisations"])

    def build(self, pretrained: bool = True) -> "ResNet":
        """Build the backbone. pretrained: load the weights that the config names."""
        backbone = ResNet(self.name, self.frozen)
        if pretrained:
            load_pretrained(backbone, self.weights, "model.backbone.weights")
        return backbone


class FixedBatchNorm2d(nn.Module):
    """Batch normalisation with fixed statistics, as loaded. Weight and bias are learned."""

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def conv_and_normalise(self, conv: nn.Conv2d, x: Tensor) -> Tensor:
        """Apply `conv`, which must have no bias, and then this normalisation to x."""
        scale = self.weight * (self.running_var + self.eps).rsqrt()
        weight, bias = conv.weight * scale[:, None, None, None], self.bias - self.running_mean * scale
        return F.conv2d(x, weight, bias, conv.stride, conv.padding)


class ResNet(Backbone):
    """Images [B, 3, H, W] -> C2..C5 at strides 4, 8, 16, 32 with 256, 512, 1024, 2048 channels."""

    def __init__(self, name: str, frozen: int) -> None:
        super().__init__()
        import torchvision  # imported here because it takes as long as importing PyTorch: see models/rcnn/boxes.py

        net = torchvision.models.get_model(name, weights=None, norm_layer=FixedBatchNorm2d)
        self.conv1, self.bn1 = net.conv1, net.bn1
        self.layer1, self.layer2, self.layer3, self.layer4 = net.layer1, net.layer2, net.layer3, net.layer4
        self.feature_info = tuple(map(FeatureInfo, CHANNELS, STRIDES))
        self.parts = [["conv1.", "bn1."], *([f"{part}."] for part in PARTS[1:])]
        parts = [nn.ModuleList([self.conv1, self.bn1]), self.layer1, self.layer2, self.layer3, self.layer4]
        for part in parts[:frozen]:
            part.requires_grad_(False)

    def forward(self, images: Tensor) -> list[Tensor]:
        """See the class."""
        x = F.max_pool2d(self.bn1.conv_and_normalise(self.conv1, images).relu_(), kernel_size=3, stride=2, padding=1)
        levels = []
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            for block in layer.children():
                x = _bottleneck(block, x)
            levels.append(x)
        return levels


def _bottleneck(block: Any, x: Tensor) -> Tensor:
    y = block.bn1.conv_and_normalise(block.conv1, x).relu_()
    y = block.bn2.conv_and_normalise(block.conv2, y).relu_()
    y = block.bn3.conv_and_normalise(block.conv3, y)
    if block.downsample is not None:
        conv, norm = block.downsample
        x = norm.conv_and_normalise(conv, x)
    y += x
    result: Tensor = y.relu_()
    return result
