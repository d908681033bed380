"""Swin Transformer, T, S, B and L, as an encoder for dense prediction. Liu et al., "Swin Transformer: Hierarchical
Vision Transformer using Shifted Windows", ICCV 2021.

As in the original's detectors, and unlike in timm, a map whose sides are not multiples of the window is padded before
it is shifted, windows never shrink, and every level has its own output norm. Images may have any size, but an exported
graph is valid only for the size that it was exported with. As in MiT, maps are [B, H, W, C] inside.
"""

from typing import Annotated, ClassVar, Literal, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import Field, PositiveInt, model_validator
from torch import Tensor, nn

from config import Rate, Schema
from models.base import Backbone, FeatureInfo
from models.layers.residual_block import MLP_RATIO, ResidualBlock
from models.weights import IMAGENET, Published, Source, load_pretrained

PerStage = tuple[int, int, int, int]
Depth = Annotated[int, Field(gt=0, le=1000)]

STRIDES: PerStage = (4, 8, 16, 32)
HEAD_CHANNELS = 32
# Added to the logits between pixels that share a shifted window but come from different regions of the map; as the
# original.
MASKED_LOGIT = -100.0
EPS = 1e-5  # of all norms


class Shape(NamedTuple):
    """Channels of the first stage (each later stage has twice as many), blocks per stage, window side in pixels."""

    channels: int
    depths: PerStage
    window: int


SHAPES = {
    "swin_t": Shape(96, (2, 2, 6, 2), 7),
    "swin_s": Shape(96, (2, 2, 18, 2), 7),
    "swin_b": Shape(128, (2, 2, 18, 2), 12),
    "swin_l": Shape(192, (2, 2, 18, 2), 12),
}


class SwinConfig(Schema):
    """A Swin. weights: a file of converted weights, or None to start from random numbers; see models/weights.py.

    ImageNet weights leave the output norms of the four levels at their initial values.
    window: side of a window in pixels; by default 7 for T and S, and 12 for B and L, as in the weights for images of
    384 pixels. channels (of the first stage), depths: override those of the named size.
    """

    name: Literal["swin_t", "swin_s", "swin_b", "swin_l"]
    weights: Source | None = IMAGENET
    fixed: ClassVar[str] = ""  # training changes all parts
    drop_path: Rate = 0.3
    window: Annotated[int, Field(ge=2)] | None = None
    channels: PositiveInt | None = None
    depths: tuple[Depth, Depth, Depth, Depth] | None = None

    @model_validator(mode="after")
    def _check_channels(self) -> "SwinConfig":
        if self.shape.channels % HEAD_CHANNELS:
            raise ValueError(f"channels {self.channels} do not divide into heads of 32; use a multiple of 32")
        return self

    @property
    def shape(self) -> Shape:
        """Channels, depths and window in effect: those of the named size, unless overridden."""
        named = SHAPES[self.name]
        return Shape(self.channels or named.channels, self.depths or named.depths, self.window or named.window)

    @property
    def published(self) -> Published | None:
        """The original release: ImageNet-1k for T and S, ImageNet-22k for B and L; None if the sizes are others."""
        if self.shape != SHAPES[self.name]:
            return None
        return Published(f"{self.name}_imagenet{'22k' if self.name in ('swin_b', 'swin_l') else ''}")

    def build(self, pretrained: bool = True) -> "Swin":
        """Build the backbone. pretrained: load the weights that the config names."""
        backbone = Swin(*self.shape, drop_path=self.drop_path)
        if pretrained:
            load_pretrained(backbone, self.weights, "model.backbone.weights")
        return backbone


class Swin(Backbone):
    """Four stages at strides 4, 8, 16, 32. The drop-path rate rises linearly over all blocks, from 0 to `drop_path`."""

    one_size = True

    def __init__(self, channels: int, depths: PerStage, window: int, drop_path: float = 0.3) -> None:
        super().__init__()
        widths = [channels << stage for stage in range(4)]
        self.feature_info = tuple(map(FeatureInfo, widths, STRIDES))
        rates = torch.linspace(0, drop_path, sum(depths), device="cpu").split(list(depths))
        self.patch = nn.Conv2d(3, channels, STRIDES[0], STRIDES[0])
        self.patch_norm = nn.LayerNorm(channels, eps=EPS)
        self.stages = nn.ModuleList(
            nn.Sequential(*(Block(width, window, index % 2 == 1, rate) for index, rate in enumerate(part.tolist())))
            for width, part in zip(widths, rates, strict=True)
        )
        self.merges = nn.ModuleList(PatchMerging(width) for width in widths[:-1])
        self.norms = nn.ModuleList(nn.LayerNorm(width, eps=EPS) for width in widths)
        merges = [[], *([f"merges.{index}."] for index in range(len(widths) - 1))]
        stages = [[*merge, f"stages.{index}.", f"norms.{index}."] for index, merge in enumerate(merges)]
        self.parts = [["patch.", "patch_norm."], *stages]
        self.apply(_initialise)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Images [B, 3, H, W] -> levels [B, C_i, H / s_i, W / s_i], sizes rounded up, stored channels_last."""
        # A map [B, H, W, C] permuted to [B, C, H, W] is what PyTorch calls channels_last.
        x = _pad(images.permute(0, 2, 3, 1), STRIDES[0]).permute(0, 3, 1, 2)
        x = self.patch(x.contiguous(memory_format=torch.channels_last))
        x = self.patch_norm(x.permute(0, 2, 3, 1))
        features = []
        for index, (stage, norm) in enumerate(zip(self.stages, self.norms, strict=True)):
            x = stage(x if index == 0 else self.merges[index - 1](x))
            features.append(norm(x).permute(0, 3, 1, 2))
        return features


class PatchMerging(nn.Module):
    """Merge 2 x 2 pixels into one with twice the channels. [B, H, W, C] -> [B, H / 2, W / 2, 2C], rounded up."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * channels, eps=EPS)
        self.reduce = nn.Linear(4 * channels, 2 * channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """See the class. The four pixels are concatenated column by column, as the published weights expect."""
        x = _pad(x, 2)
        B, H, W, C = x.shape
        squares = x.view(B, H // 2, 2, W // 2, 2, C).permute(0, 1, 3, 4, 2, 5).reshape(B, H // 2, W // 2, 4 * C)
        return self.reduce(self.norm(squares))


class Block(ResidualBlock):
    """Attention within windows, and an MLP. In every second block the windows are shifted by half a window.

    [B, H, W, C] -> same shape.
    """

    def __init__(self, channels: int, window: int, shifted: bool, drop_path: float) -> None:
        super().__init__(channels, WindowAttention(channels, window, shifted), MLP(channels), EPS, drop_path)


class WindowAttention(nn.Module):
    """Attention between the pixels of each window, with a learned bias for each relative position.

    Map [B, H, W, C] -> same shape. shifted: the windows are shifted by half a window, cyclically. So windows at the
    lower and right border consist of regions that are not neighbours in the map; pixels of different regions do not
    attend to each other. Padding pixels are attended to.
    """

    index: Tensor

    def __init__(self, channels: int, window: int, shifted: bool) -> None:
        super().__init__()
        self.window = window
        self.shift = window // 2 if shifted else 0
        self.heads = channels // HEAD_CHANNELS
        self.qkv = nn.Linear(channels, 3 * channels)  # rows [query; key; value]
        self.project = nn.Linear(channels, channels)
        self.position_bias = nn.Parameter(torch.empty((2 * window - 1) ** 2, self.heads))
        rows, columns = (axis.flatten() for axis in torch.meshgrid([torch.arange(window)] * 2, indexing="ij"))
        steps = [axis[:, None] - axis + window - 1 for axis in (rows, columns)]  # from key to query, shifted to >= 0
        self.register_buffer("index", steps[0] * (2 * window - 1) + steps[1], persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, H, W, C] -> same shape."""
        B, H, W, C = x.shape
        side = self.window
        x = _pad(x, side)
        if self.shift:
            x = x.roll((-self.shift, -self.shift), (1, 2))
        rows, columns = x.shape[1] // side, x.shape[2] // side
        windows = x.view(B, rows, side, columns, side, C).transpose(2, 3).reshape(-1, side * side, C)
        query, key, value = self.qkv(windows).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        bias = self._attention_bias(rows, columns).to(query.dtype)  # [1 or windows per image, heads, side², side²]
        if self.shift:
            bias = bias.repeat(B, 1, 1, 1)
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=bias).transpose(1, 2)
        x = mixed.reshape(B, rows, columns, side, side, C).transpose(2, 3).reshape(B, rows * side, columns * side, C)
        if self.shift:
            x = x.roll((self.shift, self.shift), (1, 2))
        return self.project(x[:, :H, :W])

    def _attention_bias(self, rows: int, columns: int) -> Tensor:
        """The bias of the logits, [1, heads, N, N] for all windows or, if shifted, [windows, heads, N, N]."""
        bias = self.position_bias[self.index].permute(2, 0, 1)[None]
        if not self.shift:
            return bias
        vertical, horizontal = (self._region_numbers(count, bias.device) for count in (rows, columns))
        regions = 3 * vertical[:, None, :, None] + horizontal[None, :, None, :]  # [rows, columns, side, side]
        regions = regions.flatten(2).flatten(0, 1)
        return bias + MASKED_LOGIT * (regions[:, None, :, None] != regions[:, None, None, :])

    def _region_numbers(self, count: int, device: torch.device) -> Tensor:
        """Along one axis of a shifted map: which of 3 regions each pixel of its windows, [count, side], is in."""
        length = count * self.window
        place = torch.arange(length, device=device)
        return ((place >= length - self.window).long() + (place >= length - self.shift)).view(count, self.window)


class MLP(nn.Module):
    """Two linear layers. [B, H, W, C] -> same shape."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.expand = nn.Linear(channels, MLP_RATIO * channels)
        self.contract = nn.Linear(MLP_RATIO * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, H, W, C] -> same shape."""
        return self.contract(F.gelu(self.expand(x)))


def _pad(x: Tensor, multiple: int) -> Tensor:
    """Zero-pad a map [B, H, W, C] at the bottom and right, so that its sides are multiples of `multiple`."""
    right, bottom = -x.shape[2] % multiple, -x.shape[1] % multiple
    return F.pad(x, (0, 0, 0, right, 0, bottom)) if right or bottom else x


def _initialise(module: nn.Module) -> None:
    """Initialise as the original: linear layers and position biases normal with std 0.02, other biases 0."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, WindowAttention):
        nn.init.trunc_normal_(module.position_bias, std=0.02)
