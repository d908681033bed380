"""Mix Transformer (MiT), the encoder of SegFormer, B0 to B5. Xie et al., "SegFormer: Simple and Efficient Design for
Semantic Segmentation with Transformers", NeurIPS 2021.

Inside, maps are [B, H, W, C]: linear layers and norms act on the last axis, and to a convolution the same memory is a
channels_last map. So no stage copies a tensor just to permute it. Differences from the original: attention is fused,
and images with a side under 29 pixels raise a clear error (the 8x8 reduction of the first stage does not fit into their
map).
"""

from typing import ClassVar, Literal, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import model_validator
from torch import Tensor, nn

from config import Rate, Schema
from models.base import Backbone, FeatureInfo
from models.layers.residual_block import MLP_RATIO, ResidualBlock
from models.weights import IMAGENET, Published, Source, load_pretrained

PerStage = tuple[int, int, int, int]
MAX_BLOCKS = 1000  # per stage; more would be a typing error, which would fill the memory

STRIDES: PerStage = (4, 8, 16, 32)
HEADS: PerStage = (1, 2, 5, 8)
REDUCTIONS: PerStage = (8, 4, 2, 1)  # side of the square of pixels that is reduced to one key and value
MIN_SIDE = 29  # pixels; the smallest image whose maps contain at least one such square at every stage
BLOCK_NORM_EPS = 1e-6  # of the norms in blocks and of stage outputs; patch and reduction norms use PyTorch's 1e-5


class Shape(NamedTuple):
    """Channels and number of blocks of the four stages."""

    channels: PerStage
    depths: PerStage


SHAPES = {
    "mit_b0": Shape((32, 64, 160, 256), (2, 2, 2, 2)),
    "mit_b1": Shape((64, 128, 320, 512), (2, 2, 2, 2)),
    "mit_b2": Shape((64, 128, 320, 512), (3, 4, 6, 3)),
    "mit_b3": Shape((64, 128, 320, 512), (3, 4, 18, 3)),
    "mit_b4": Shape((64, 128, 320, 512), (3, 8, 27, 3)),
    "mit_b5": Shape((64, 128, 320, 512), (3, 6, 40, 3)),
}


class MiTConfig(Schema):
    """A MiT. weights: a file of converted weights, or None to start from random numbers; see models/weights.py.

    channels, depths: override those of the named size.
    """

    name: Literal["mit_b0", "mit_b1", "mit_b2", "mit_b3", "mit_b4", "mit_b5"]
    weights: Source | None = IMAGENET
    fixed: ClassVar[str] = ""  # training changes all parts
    drop_path: Rate = 0.1
    channels: PerStage | None = None
    depths: PerStage | None = None

    @model_validator(mode="after")
    def _check_sizes(self) -> "MiTConfig":
        for channels, heads in zip(self.shape.channels, HEADS, strict=True):
            if channels < 1 or channels % heads:
                raise ValueError(f"channels {channels} do not divide into {heads} heads; use multiples of 1, 2, 5, 8")
        if not 1 <= min(self.shape.depths) <= max(self.shape.depths) <= MAX_BLOCKS:
            raise ValueError(f"depths must be from 1 to {MAX_BLOCKS} blocks per stage")
        return self

    @property
    def shape(self) -> Shape:
        """Channels and depths in effect: those of the named size, unless overridden."""
        named = SHAPES[self.name]
        return Shape(self.channels or named.channels, self.depths or named.depths)

    @property
    def published(self) -> Published | None:
        """The ImageNet-1k weights of the SegFormer release; None if the sizes are others."""
        return Published(f"{self.name}_imagenet") if self.shape == SHAPES[self.name] else None

    def build(self, pretrained: bool = True) -> "MiT":
        """Build the backbone. pretrained: load the weights that the config names."""
        backbone = MiT(*self.shape, drop_path=self.drop_path)
        if pretrained:
            load_pretrained(backbone, self.weights, "model.backbone.weights")
        return backbone


class MiT(Backbone):
    """Four stages at strides 4, 8, 16 and 32. The drop-path rate rises linearly over all blocks, from 0 to `drop_path`.

    Raises ValueError for images with a side under 29 pixels.
    """

    def __init__(self, channels: PerStage, depths: PerStage, drop_path: float = 0.1) -> None:
        super().__init__()
        self.feature_info = tuple(map(FeatureInfo, channels, STRIDES))
        self.parts = [
            ["stages.0.patch"],
            ["stages.0.blocks.", "stages.0.norm."],
            *([f"stages.{n}."] for n in (1, 2, 3)),
        ]
        blocks = sum(depths)
        rates = [drop_path * index / (blocks - 1) for index in range(blocks)]
        starts = [sum(depths[:index]) for index in range(4)]
        self.stages = nn.ModuleList(
            Stage(
                3 if index == 0 else channels[index - 1],
                channels[index],
                HEADS[index],
                REDUCTIONS[index],
                rates[starts[index] : starts[index] + depths[index]],
            )
            for index in range(4)
        )
        self.apply(_initialise)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Images [B, 3, H, W] -> levels [B, C_i, H / s_i, W / s_i], sizes rounded up, stored channels_last."""
        if min(images.shape[-2:]) < MIN_SIDE:
            raise ValueError(f"images of {tuple(images.shape[-2:])} pixels; MiT needs at least {MIN_SIDE} a side")
        # A map [B, H, W, C] permuted to [B, C, H, W] is what PyTorch calls channels_last.
        features, x = [], images.to(memory_format=torch.channels_last)
        for stage in self.stages:
            x = stage(x)
            features.append(x)
        return features


class Stage(nn.Module):
    """Overlapping patches, transformer blocks, norm. [B, C_in, H, W] -> [B, C, H / stride, W / stride], rounded up.

    The stride is 4 for images (3 channels), else 2.
    """

    def __init__(self, in_channels: int, channels: int, heads: int, reduction: int, drop_paths: list[float]) -> None:
        super().__init__()
        kernel, stride = (7, 4) if in_channels == 3 else (3, 2)
        self.patch = nn.Conv2d(in_channels, channels, kernel, stride, padding=kernel // 2)
        self.patch_norm = nn.LayerNorm(channels)
        self.blocks = nn.ModuleList(Block(channels, heads, reduction, rate) for rate in drop_paths)
        self.norm = nn.LayerNorm(channels, eps=BLOCK_NORM_EPS)

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, C_in, H, W], channels_last."""
        x = self.patch_norm(self.patch(x).permute(0, 2, 3, 1))
        for block in self.blocks:
            x = block(x)
        return self.norm(x).permute(0, 3, 1, 2)


class Block(ResidualBlock):
    """Attention over reduced keys and values, and an MLP with a convolution. [B, H, W, C] -> same shape."""

    def __init__(self, channels: int, heads: int, reduction: int, drop_path: float) -> None:
        super().__init__(channels, Attention(channels, heads, reduction), MLP(channels), BLOCK_NORM_EPS, drop_path)


class Attention(nn.Module):
    """Attention from pixels to squares of `reduction` x `reduction` pixels, each reduced to one key and value.

    [B, H, W, C] -> same shape.
    """

    def __init__(self, channels: int, heads: int, reduction: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(channels, channels)
        self.key_value = nn.Linear(channels, 2 * channels)  # rows [key; value]
        self.reduce = nn.Conv2d(channels, channels, reduction, reduction) if reduction > 1 else None
        self.reduce_norm = nn.LayerNorm(channels) if reduction > 1 else None
        self.project = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, H, W, C] -> same shape. As in the original, the last rows and columns are not attended to if they do
        not fill a square.
        """
        B, H, W, C = x.shape
        query = self.query(x).view(B, H * W, self.heads, -1).transpose(1, 2)
        source = x
        if self.reduce is not None and self.reduce_norm is not None:
            source = self.reduce_norm(self.reduce(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))
        key, value = self.key_value(source).reshape(B, -1, 2, self.heads, C // self.heads).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(query, key, value)  # [B, heads, H * W, C / heads]
        return self.project(mixed.transpose(1, 2).reshape(B, H, W, C))


class MLP(nn.Module):
    """Two linear layers with a depthwise 3x3 convolution between them. [B, H, W, C] -> same shape.

    The zero padding of the convolution provides position information.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = MLP_RATIO * channels
        self.expand = nn.Linear(channels, hidden)
        self.depthwise = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
        self.contract = nn.Linear(hidden, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, H, W, C] -> same shape."""
        x = self.depthwise(self.expand(x).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return self.contract(F.gelu(x))


def _initialise(module: nn.Module) -> None:
    """Initialise as the original: linear layers normal with std 0.02, convolutions by fan-out, biases 0."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Conv2d):
        fan_out = module.weight[0, 0].numel() * module.out_channels // module.groups
        nn.init.normal_(module.weight, std=(2 / fan_out) ** 0.5)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
