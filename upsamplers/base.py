"""Base classes of all upsamplers: the module that decoders call, and the config record that a YAML file fills.

Decoders always write `upsampler(coarse, guide=fine)`. A guided upsampler reads the values of the guide, the others only
its size. So a decoder need not know which kind of upsampler it has.

An upsampler may also want to change the guide, as FreqFusion does: its host takes the enlarged x and the guide with its
high frequencies raised. It then returns x plus the change of the guide. In a host that adds the result to the guide
this is exactly the sum of both. A host that concatenates gets the change within the result and the guide beside it.
Where guide and x differ in channels nothing can be added, so the change is left out; likewise the guide's share in the
blend of FADE-Lite. No host does anything for this.
"""

import functools
import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal, NamedTuple, get_args, get_origin, get_type_hints

import torch
from torch import Tensor, nn

Padding = Literal["border", "zeros"]


class Points(NamedTuple):
    """Where an upsampler reads its map: the n points of each output pixel, for each of g contiguous channel groups.

    starts: positions for zero offsets, [sH, sW, 2] or in any shape that expands to that of positions.
    positions: [B, g, n, sH, sW, 2], (column, row) in low-res pixels, the centre of the first at (1/2, 1/2).
    weights: [B, g, n, sH, sW], or [B, 1, n, sH, sW] for all groups alike, or None for n = 1 with weight 1.
    padding: what is read outside the map; "border": the nearest place between the outermost pixel centres.
    """

    starts: Tensor
    positions: Tensor
    weights: Tensor | None
    padding: Padding


class Upsampler(nn.Module, ABC):
    """Enlarges a feature map by an integer scale. x [B, C, H, W] -> [B, C, sH, sW], in the dtype of x.

    Raises ValueError if the scale or a channel count is not a whole number >= 1.
    """

    uses_guide: ClassVar[bool] = False

    def __init__(self, channels: int, guide_channels: int | None = None, scale: int = 2) -> None:
        super().__init__()
        guide_channels = channels if guide_channels is None else guide_channels
        require_whole(channels=channels, guide_channels=guide_channels, scale=scale)
        self.channels = channels
        self.guide_channels = guide_channels
        self.scale = scale

    def forward(self, x: Tensor, guide: Tensor | None = None, size: Sequence[int] | None = None) -> Tensor:
        """Upsample x, then crop it at the bottom and right to `size` if given, else to the guide's size if given.

        x [B, C, H, W], guide [B, G, h, w] -> [B, C, h, w] with s(H-1) < h <= sH and s(W-1) < w <= sW. A guide smaller
        than sH x sW is extended by repeating its last row and column. The result has the dtype of x, also under
        autocast.
        Raises ValueError if a shape or dtype does not fit, or if a guided upsampler gets no guide.
        """
        self._check_input("x", x, self.channels)
        height, width = self.scale * x.shape[2], self.scale * x.shape[3]
        target = self._target_size(x, guide, size)
        output = self.upsample(x, self.prepare_guide(x, guide))
        if target is not None and target != (height, width):
            output = output[:, :, : target[0], : target[1]]
        return output.to(x.dtype)

    @abstractmethod
    def upsample(self, x: Tensor, guide: Tensor | None) -> Tensor:
        """Upsample x without cropping. x [B, C, H, W], guide [B, G, sH, sW] if used -> [B, C, sH, sW]."""

    def kernels(self, x: Tensor, guide: Tensor | None) -> Tensor | None:
        """The weights of the window of x that each output pixel sums, in the layout that `reassemble` takes.

        x [B, C, H, W], guide [B, G, sH, sW] if used -> [B, g, K², s², H, W] for g contiguous groups of
        channels. None for upsamplers that do not compute such a sum.
        """
        return None

    def weighted_points(self, x: Tensor, guide: Tensor | None) -> Points | None:
        """The points that each output pixel sums. x [B, C, H, W], guide [B, G, sH, sW] if used.

        None for upsamplers that do not read points.
        """
        return None

    def prepare_guide(self, x: Tensor, guide: Tensor | None) -> Tensor | None:
        """The guide in the form that `upsample` and its parts take: in the dtype of x, extended to [B, G, sH, sW].

        None if this upsampler uses no guide. Raises ValueError if it needs a guide that is missing or does not fit.
        """
        if not self.uses_guide:
            return None
        return _extend_to(self._checked_guide(x, guide), self.scale * x.shape[2], self.scale * x.shape[3])

    @abstractmethod
    def macs(self, height: int, width: int) -> int:
        """Multiply-accumulates for one image whose x is height x width, counted as in the paper's Table 4.

        Convolutions, sums over windows and similarities count. Biases, norms, activations and pixel shuffles do not.
        """

    def weight_count(self) -> int:
        """The number of parameters as the paper counts them: convolution weights only, no biases and no norms."""
        convs = (module for module in self.modules() if isinstance(module, nn.Conv2d | nn.ConvTranspose2d))
        return sum(conv.weight.numel() for conv in convs)

    def _check_input(self, role: str, features: Tensor, channels: int) -> None:
        shape = tuple(features.shape)
        if features.ndim != 4 or shape[1] != channels:
            raise ValueError(f"{type(self).__name__}: {role} must be [B, {channels}, H, W], got {list(shape)}")
        if not features.dtype.is_floating_point:
            raise ValueError(f"{type(self).__name__}: {role} must be floating point, got {features.dtype}")

    def _checked_guide(self, x: Tensor, guide: Tensor | None) -> Tensor:
        if guide is None:
            raise ValueError(f"{type(self).__name__} computes its kernels from a guide: call it with guide=...")
        self._check_input("guide", guide, self.guide_channels)
        if guide.shape[0] != x.shape[0]:
            raise ValueError(f"{type(self).__name__}: {x.shape[0]} images in x, but {guide.shape[0]} in the guide")
        return guide.to(x.dtype)

    def _target_size(self, x: Tensor, guide: Tensor | None, size: Sequence[int] | None) -> tuple[int, int] | None:
        if guide is not None and guide.ndim != 4:
            raise ValueError(f"{type(self).__name__}: guide must be [B, G, h, w], got {list(guide.shape)}")
        if size is not None and len(size) != 2:
            raise ValueError(f"{type(self).__name__}: size must be (height, width), got {size!r}")
        if size is None and guide is None:
            return None
        chosen = tuple(guide.shape[2:] if guide is not None else ()) if size is None else tuple(size)
        if guide is not None and self.uses_guide and chosen != tuple(guide.shape[2:]):
            raise ValueError(f"{type(self).__name__}: size {chosen} is not the guide's {tuple(guide.shape[2:])}")
        s, (H, W) = self.scale, x.shape[2:]
        if not (s * (H - 1) < chosen[0] <= s * H and s * (W - 1) < chosen[1] <= s * W):
            raise ValueError(
                f"{type(self).__name__}: x of {H} x {W} at scale {s} gives {s * H} x {s * W} and can be cropped to"
                f" {s * (H - 1) + 1} x {s * (W - 1) + 1} at least; the target is {chosen[0]} x {chosen[1]}"
            )
        return chosen[0], chosen[1]


def _extend_to(guide: Tensor, height: int, width: int) -> Tensor:
    """Repeat the last row and column up to the given size. Unlike F.pad this works for empty batches in every dtype."""
    if guide.shape[2] != height:
        missing = height - guide.shape[2]
        guide = torch.cat([guide, guide[:, :, -1:].expand(-1, -1, missing, -1)], dim=2)
    if guide.shape[3] != width:
        missing = width - guide.shape[3]
        guide = torch.cat([guide, guide[:, :, :, -1:].expand(-1, -1, -1, missing)], dim=3)
    return guide


@dataclass(frozen=True)
class UpsamplerConfig(ABC):
    """The options of one upsampler.

    A plain dataclass: usable without pydantic, and pydantic can validate it in a union discriminated by `name`.
    Raises ValueError for a value of the wrong type or out of range.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    name: str

    def __post_init__(self) -> None:
        hints = get_type_hints(type(self))
        for field in fields(self):
            value = getattr(self, field.name)
            if not _matches_type(value, hints[field.name]):
                expected = _describe_type(hints[field.name])
                raise ValueError(f"upsampler {self.name}: {field.name} must be {expected}, got {value!r}")

    def build(self, channels: int, guide_channels: int, scale: int = 2) -> Upsampler:
        """Build the module for x with `channels` and a guide with `guide_channels`.

        Every upsampler draws exactly one number from PyTorch's generator. It is the seed of the generator that draws
        the upsampler's initial weights. So the rest of a model gets the same initial weights with every upsampler.
        """
        seed = int(torch.randint(2**62, (), device="cpu"))
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            return self.construct(channels, guide_channels, scale)

    @abstractmethod
    def construct(self, channels: int, guide_channels: int, scale: int) -> Upsampler:
        """Build the module. Its initial weights are drawn from PyTorch's default generator."""


def _matches_type(value: object, kind: Any) -> bool:
    if get_origin(kind) is Literal:
        return value in get_args(kind)
    if get_args(kind):  # a union
        return any(_matches_type(value, member) for member in get_args(kind))
    return type(value) is kind or (kind is float and type(value) is int)  # `is`: bool does not pass as int


def _describe_type(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return " or ".join(repr(value) for value in get_args(kind))
    if get_args(kind):  # a union
        return " or ".join(map(_describe_type, get_args(kind)))
    return "null" if kind is type(None) else str(kind.__name__)


def require_whole(**values: object) -> None:
    """Raise ValueError unless every value is an int of at least 1."""
    for name, value in values.items():
        if type(value) is not int or value < 1:
            raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}")


def require_odd(**values: int) -> None:
    """Raise ValueError unless every value is an odd int of at least 1: kernels are centred on a pixel."""
    require_whole(**values)
    for name, value in values.items():
        if value % 2 == 0:
            raise ValueError(f"{name} must be odd, got {value}")


def require_positive(**values: float) -> None:
    """Raise ValueError unless every value is a finite number above 0."""
    for name, value in values.items():
        if not (math.isfinite(value) and value > 0):
            raise ValueError(f"{name} must be a number above 0, got {value!r}")


def require_choice(choices: Sequence[str], **values: str) -> None:
    """Raise ValueError unless every value is one of the choices."""
    for name, value in values.items():
        if value not in choices:
            raise ValueError(f"{name} must be {' or '.join(map(repr, choices))}, got {value!r}")


def require_scale_two(owner: str, scale: int) -> None:
    """Raise ValueError unless the scale is 2, for operators whose papers define no other."""
    require_whole(scale=scale)
    if scale != 2:
        raise ValueError(f"{owner} is defined for scale 2 only, got {scale}; chain it for 4 and 8")


def require_divisor(channels: int, **values: int) -> None:
    """Raise ValueError unless every value divides the channel count; the message lists the values that do."""
    require_whole(channels=channels, **values)
    for name, value in values.items():
        if channels % value:
            valid = [divisor for divisor in range(1, channels + 1) if channels % divisor == 0]
            raise ValueError(f"{name} must divide the {channels} channels, got {value}; valid: {valid}")


def default_groups(owner: str, channels: int, preferred: int) -> int:
    """The published group count; if it does not divide the channels, the largest smaller count that does."""
    require_whole(channels=channels)
    groups = next(divisor for divisor in range(preferred, 0, -1) if channels % divisor == 0)
    if groups != preferred:
        _warn_once(f"{owner}: {preferred} groups do not divide {channels} channels; using {groups}")
    return groups


@functools.cache
def _warn_once(message: str) -> None:
    warnings.warn(message, stacklevel=4)


def at_least_float32(x: Tensor) -> Tensor:
    """Convert to float32 if the dtype of x is smaller, else return x itself."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


# --- the sub-pixel layout -------------------------------------------------------------------------------------------

# A high-res map stored at low resolution, [B, C, s², H, W]: high-res pixel (s·h+i, s·w+j) is at low-res pixel (h, w),
# at index i·s+j of the extra dimension. Flattening C and s² gives the channel order of torch's pixel_shuffle. We do not
# use pixel_shuffle itself: its backward fails on empty batches (seen in PyTorch 2.14).


def shuffle(y: Tensor, scale: int) -> Tensor:
    """From the sub-pixel layout to high resolution. y [B, C, s², H, W] -> [B, C, sH, sW]."""
    B, C, _, H, W = y.shape
    y = y.reshape(B, C, scale, scale, H, W).permute(0, 1, 4, 2, 5, 3)
    # In two steps: for a single reshape torch.export puts a condition on W (PyTorch 2.10, 2.11).
    return y.flatten(2).reshape(B, C, scale * H, scale * W)


def unshuffle(y: Tensor, scale: int) -> Tensor:
    """From high resolution to the sub-pixel layout. y [B, C, sH, sW] -> [B, C, s², H, W]."""
    B, C, height, width = y.shape
    H, W = height // scale, width // scale
    y = y.reshape(B, C, H, scale, W, scale).permute(0, 1, 3, 5, 2, 4)
    return y.reshape(B, C, scale**2, H, W)
