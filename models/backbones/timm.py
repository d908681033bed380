"""Any backbone of the library timm (Wightman, https://github.com/huggingface/pytorch-image-models).

A network with levels at strides 4, 8, 16 and 32 gives these. A plain vision transformer (DINOv2, DINOv3, CLIP,
supervised ones, ..) has one map, from which a simple feature pyramid makes the four levels.

Users need not know what a network expects: images are padded to the multiples that it takes and its levels are cropped
again; images normalised with ImageNet's statistics, as ours are, are converted to its own; for patches of 14 pixels the
image is resized to 14/16 of its size, so that the map has stride 16.
"""

from bisect import bisect_left
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

import torch
import torch.nn.functional as F
from pydantic import NonNegativeInt, PositiveInt
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from config import Rate, Schema
from errors import UserError
from models.base import Backbone, FeatureInfo
from models.layers.simple_pyramid import STRIDES, SimplePyramid
from models.upsampler import UpsamplerConfig
from models.weights import IMAGENET, Published, Source, load_state
from models.wrappers import with_prefix
from structures import Size
from upsamplers import DeconvConfig

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of RGB on 0..1; see datasets/colour.py


class Anatomy(NamedTuple):
    """What a network of timm offers.

    levels: channels and stride of its four levels, or of the one map of a plain transformer, which is at a power of
    two: images are scaled by `patch / stride` for it. indices, parts: their numbers and names of modules in timm.
    patch: side of the patches of a plain transformer, else 0. step: image sides (height, width) must be multiples of
    it. only_size: if the network takes a single size, that one.
    """

    levels: tuple[FeatureInfo, ...]
    indices: tuple[int, ...]
    parts: tuple[str, ...]
    patch: int
    step: Size
    only_size: Size | None


def extract(net: Any, images: Tensor, is_plain: bool) -> list[Tensor]:
    """Images [B, C, H, W] -> the levels of a network of `build`, [B, C_i, H_i, W_i]."""
    if is_plain:
        maps = net.forward_intermediates(images, indices=1, norm=True, output_fmt="NCHW", intermediates_only=True)
        return list(maps)
    form = getattr(net, "output_fmt", "NCHW")
    levels: list[Tensor] = net(images)
    return [level.permute(0, 3, 1, 2) for level in levels] if getattr(form, "value", form) == "NHWC" else levels


def scaled(size: Size, factor: int, divisor: int) -> Size:
    """The size times factor / divisor, rounded up."""
    return -(-size[0] * factor // divisor), -(-size[1] * factor // divisor)


class TimmConfig(Schema):
    """A backbone of timm. model: its name in timm, ARCHITECTURE or ARCHITECTURE.TAG.

    weights: `imagenet`: those that timm publishes for the tag (whatever data they were trained on), from the Hugging
    Face hub; null: random; or a file: .safetensors, .pth, .pt, or a checkpoint of this repository.
    in_chans: channels of the images. image_size: (height, width) that the network is built for, if it takes only one
    size. drop_path: stochastic depth rate; None: timm's.
    frozen: how many stages, counted from the first with the stem, keep their weights; in a plain vision transformer,
    blocks. all: the whole network, but not the feature pyramid. Frozen parts are in evaluation mode.
    fixed_statistics: batch norms use their loaded statistics in training too, as detectors with few images do.
    checkpointing: compute activations again in the backward pass, instead of keeping them: less memory, more time.
    pyramid_upsampler, pyramid_channels: of the simple feature pyramid; only plain vision transformers have one.
    """

    name: Literal["timm"] = "timm"
    model: str
    weights: Source | None = IMAGENET
    in_chans: PositiveInt = 3
    image_size: tuple[PositiveInt, PositiveInt] | None = None
    drop_path: Rate | None = None
    frozen: Literal["all"] | NonNegativeInt = 0
    fixed_statistics: bool = False
    checkpointing: bool = False
    pyramid_upsampler: UpsamplerConfig = DeconvConfig()
    pyramid_channels: PositiveInt = 256

    @property
    def published(self) -> Published:
        """The weights that timm publishes for the tag, and fetches itself; if there are none, `build` says so."""
        return Published(self.model, by_timm=True)

    @property
    def fixed(self) -> str:
        """What training does not change: frozen parts and fixed statistics."""
        frozen = "all weights" if self.frozen == "all" else f"the weights of the first {self.frozen} stages"
        statistics = ["the statistics of the batch normalisations"] if self.fixed_statistics else []
        return " and ".join([*([frozen] if self.frozen else []), *statistics])

    def build(self, pretrained: bool = True) -> "TimmBackbone":
        """Build the backbone. pretrained: load the weights that the config names.

        On the meta device, where tensors have no data, published weights are not fetched. Raises UserError if timm has
        no such model, if it does not fit, or if its weights cannot be loaded.
        """
        from models.backbones import timm_library as library  # imports timm, which takes seconds

        options = {"in_chans": self.in_chans, "img_size": self.image_size, "drop_path_rate": self.drop_path}
        options = {name: value for name, value in options.items() if value is not None}
        anatomy = library.inspect(self.model, tuple(options.items()))

        def make(**more: Any) -> nn.Module:
            return library.build(self.model, options, anatomy, **more)

        state: dict[str, Tensor] = {}
        if not pretrained or self.weights is None:
            net = make()
        elif self.weights == IMAGENET:
            on_meta = torch.get_default_device().type == "meta"
            net = make() if on_meta else library.load_published(self.model, make)
        else:
            file = Path(self.weights).expanduser()
            state = library.read_state(file)
            state = with_prefix(state, "backbone.") or state  # of a whole model
            is_ours = any(key.startswith("body.") for key in state)
            net = make() if is_ours else library.load_file_of_timm(file, state, self.model, make)
            state = state if is_ours else {}
        backbone = TimmBackbone(net, anatomy, self, library.publication(self.model))
        if state:
            load_state(backbone, state, f"model.backbone.weights {self.weights}")
        return backbone


class TimmBackbone(Backbone):
    """Images [B, in_chans, H, W], normalised with ImageNet's statistics -> levels at strides 4, 8, 16, 32.

    body: timm's network, under whose name optimiser rules find its parameters (`match: backbone.body`). pyramid: of a
    plain vision transformer.
    Raises UserError for images that are larger than a network with a fixed size takes, or if stages cannot be frozen or
    checkpointed.
    """

    factor: Tensor
    shift: Tensor

    def __init__(self, net: nn.Module, anatomy: Anatomy, config: TimmConfig, publication: dict[str, Any]) -> None:
        super().__init__()
        self.body, self.anatomy, self.name = net, anatomy, config.model
        self.in_channels = config.in_chans
        self.feature_info = anatomy.levels
        self.pyramid: SimplePyramid | None = None
        if anatomy.patch:
            ((channels, stride),) = anatomy.levels
            self.feature_info = tuple(FeatureInfo(config.pyramid_channels, each) for each in STRIDES)
            self.pyramid = SimplePyramid(
                channels, stride, config.pyramid_channels, config.pyramid_upsampler, config.in_chans
            )
        factor, shift = conversion(publication) if config.in_chans == 3 else (None, None)
        self.register_buffer("factor", factor, persistent=False)
        self.register_buffer("shift", shift, persistent=False)
        self.fixed_statistics = config.fixed_statistics
        self.parts = self._find_parts()
        self.frozen = self._find_frozen(config.frozen)
        for module in self.frozen:
            for parameter in module.parameters(recurse=False):
                parameter.requires_grad_(False)
        if config.checkpointing:
            _checkpoint(net, config.model)

    def remove_pyramid(self) -> None:
        """Leave a plain vision transformer with its own map, for models that bring their own upsamplers."""
        self.pyramid = None
        self.feature_info = self.anatomy.levels

    def train(self, mode: bool = True) -> Self:
        """See nn.Module. Frozen parts, and batch norms with fixed statistics, stay in evaluation mode."""
        super().train(mode)
        fixed = (module for module in self.body.modules() if self.fixed_statistics and isinstance(module, _BatchNorm))
        for module in (*self.frozen, *fixed):
            module.training = False
        return self

    def forward(self, images: Tensor) -> list[Tensor]:
        """See the class. Sizes of levels are rounded up."""
        height, width = images.shape[-2:]
        images = self._pad(images)
        inputs = images if self.factor is None else images * self.factor + self.shift
        if self.anatomy.patch:
            inputs = self._resize_to_patches(inputs)
        levels = extract(self.body, inputs, self.anatomy.patch > 0)
        if self.pyramid is not None:
            levels = self.pyramid(levels[0], images)
        return [
            level[:, :, : -(-height // stride), : -(-width // stride)]
            for level, (_, stride) in zip(levels, self.feature_info, strict=True)
        ]

    def _pad(self, images: Tensor) -> Tensor:
        """Add zeros at the bottom and right, up to the multiples or the size that the network takes."""
        height, width = images.shape[-2:]
        only, step = self.anatomy.only_size, self.anatomy.step
        target: Size = (-(-height // step[0]) * step[0], -(-width // step[1]) * step[1])
        if only is not None and target != only:
            what = f"takes images up to {only[0]} x {only[1]} pixels, and got {height} x {width}"
            do = f"set model.backbone.image_size=[{height}, {width}], use smaller images, or choose another model"
            raise UserError(f"model.backbone.model {self.name}", what, do)
        return F.pad(images, (0, target[1] - width, 0, target[0] - height)) if target != (height, width) else images

    def _resize_to_patches(self, images: Tensor) -> Tensor:
        """Resize images, so that each patch covers `stride` pixels of the original."""
        patch, stride = self.anatomy.patch, self.anatomy.levels[0].stride
        if patch == stride:
            return images
        size = scaled((images.shape[-2], images.shape[-1]), patch, stride)
        return F.interpolate(images, size, mode="bilinear", antialias=patch < stride)

    def _stages(self) -> list[str]:
        """The names of the modules of stages or, of a plain transformer, blocks; [] if they cannot be told apart."""
        modules = dict(self.body.named_modules())
        found = []
        for part in self.anatomy.parts:
            found += [name for name in (part, part.replace(".", "_"), f"model.{part}") if name in modules][:1]
        return found if len(found) == len(self.anatomy.parts) else []

    def _find_parts(self) -> list[list[str]]:
        """See Backbone. Parameters are in the order of use: the stem, and then each stage with what leads to it."""
        names, stages = [name for name, _ in self.body.named_parameters()], self._stages()
        parts: list[list[str]] = [[] for _ in range(len(stages) + 1)]
        inside = [[row for row, name in enumerate(names) if name.startswith(f"{stage}.")] for stage in stages]
        first, ends = min(inside[0]) if stages else len(names), [max(rows, default=0) for rows in inside]
        for row, name in enumerate(names):
            parts[0 if row < first else min(bisect_left(ends, row) + 1, len(stages))].append(f"body.{name}")
        return parts

    def _find_frozen(self, frozen: Literal["all"] | int) -> list[nn.Module]:
        """The modules of the first stages, in the order in which timm uses and registers them."""
        if frozen == 0:
            return []
        modules = dict(self.body.named_modules())
        if frozen == "all":
            return list(modules.values())
        stages = self._stages()
        if not stages:
            raise UserError("model.backbone.frozen", f"stages of {self.name} cannot be told apart", "use 0 or all")
        if frozen > len(stages):
            raise UserError("model.backbone.frozen", f"{self.name} has {len(stages)} stages", "use fewer, or all")
        last = stages[frozen - 1]
        names = list(modules)
        end = max(index for index, name in enumerate(names) if name == last or name.startswith(f"{last}."))
        later = names[end + 1 :]
        # A container that also holds later stages is frozen in its own parameters, such as position embeddings.
        return [modules[name] for name in names[: end + 1] if name in ("", "model") or not _contains(name, later)]


def _contains(name: str, others: list[str]) -> bool:
    return any(other.startswith(f"{name}.") for other in others)


def conversion(publication: dict[str, Any]) -> tuple[Tensor | None, Tensor | None]:
    """Factor and shift [3, 1, 1] from images normalised with ImageNet's statistics to those of the weights."""
    mean, std = publication.get("mean", IMAGENET_MEAN), publication.get("std", IMAGENET_STD)
    if tuple(mean) == IMAGENET_MEAN and tuple(std) == IMAGENET_STD:
        return None, None
    theirs, own = torch.tensor([mean, std]), torch.tensor([IMAGENET_MEAN, IMAGENET_STD])
    factor, shift = own[1] / theirs[1], (own[0] - theirs[0]) / theirs[1]
    return factor[:, None, None], shift[:, None, None]


def _checkpoint(net: Any, name: str) -> None:
    """Turn gradient checkpointing on. Raises UserError if the network has no such switch."""
    for module in (net, getattr(net, "model", net)):
        with suppress(AttributeError, AssertionError):
            module.set_grad_checkpointing(True)
            return
    raise UserError("model.backbone.checkpointing", f"{name} has no gradient checkpointing", "set it to false")
