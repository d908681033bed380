"""SegFormer: a MiT encoder and a head of linear layers. Xie et al., NeurIPS 2021.

The head embeds every level, upsamples all levels to 1/4 of the image, and fuses them. Upsampling takes six x2
upsamplers: 3, 2 and 1 for levels 4, 3 and 2 (DySample, section 4.1). With `one_step` each level is resized at once, as
in the original SegFormer.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import PositiveInt, model_validator
from torch import Tensor, nn

from config import Rate, Schema
from models.base import Backbone, DenseModel
from models.components import BackboneConfig, LossConfigs, UpsamplerConfig
from models.layers.pixel_losses import CrossEntropyConfig, PixelLoss, pixel_losses
from models.layers.resize import class_probabilities, semantic_predictions, semantic_tensors
from models.layers.tiling import apply_by_rows
from models.weights import Source, load_start, replaces_backbone
from structures import Batch, DatasetInfo, Prediction, Size
from upsamplers.interpolate import BilinearConfig, NearestConfig

WIDE_HEADS = ("mit_b2", "mit_b3", "mit_b4", "mit_b5")


class SegFormerConfig(Schema):
    """A SegFormer.

    channels: channels of the head; by default 256 with B0 and B1, else 768. dropout: rate at which whole channels are
    dropped.
    losses: added up; see LossConfig in models/components.py.
    weights: a converted SegFormer or a checkpoint of this repository. weights_exclude: names of tensors or submodules
    that keep their initial values, for example head.classifier for another class list.
    one_step: resize every level to 1/4 at once, without upsamplers, as the original does. Possible only with plain
    bilinear or nearest; by default true with plain bilinear and false with all others.
    """

    name: Literal["segformer"] = "segformer"
    backbone: BackboneConfig
    upsampler: UpsamplerConfig
    channels: PositiveInt | None = None
    dropout: Rate = 0.1
    one_step: bool | None = None
    losses: LossConfigs = (CrossEntropyConfig(),)
    weights: Source | None = None
    weights_exclude: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _check_one_step(self) -> "SegFormerConfig":
        if self.one_step and self.upsampler not in (BilinearConfig(), NearestConfig()):
            raise ValueError(
                f"one_step works only with plain bilinear or nearest, not with this {self.upsampler.name}; "
                "change the upsampler or remove one_step"
            )
        return self

    def build(self, info: DatasetInfo, pretrained: bool = True) -> DenseModel:
        """Build the model for the classes of `info`. pretrained: load the weights that the config names."""
        backbone = self.backbone.build(pretrained and not replaces_backbone(self.weights, self.weights_exclude))
        channels = self.channels or (768 if self.backbone.name in WIDE_HEADS else 256)
        widths = [level.channels for level in backbone.feature_info]
        one_step = self.upsampler == BilinearConfig() if self.one_step is None else self.one_step
        # Built even with one_step, so that the other layers get the same random initial weights in both cases.
        stages = [self.upsampler.build(channels, channels) for _ in range(6)]
        if one_step:
            stages = []
        head = SegFormerHead(widths, channels, info.num_classes, stages, self.upsampler.name, self.dropout)
        model = SegFormer(backbone, head, [loss.build(info) for loss in self.losses])
        if self.weights and pretrained:
            model.left_out = load_start(model, self.weights, self.weights_exclude)
        return model


class SegFormer(DenseModel):
    """Semantic segmentation. Raw output: logits [B, K, H/4, W/4]."""

    def __init__(self, backbone: Backbone, head: "SegFormerHead", losses: Sequence[PixelLoss]) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head
        self.losses = nn.ModuleList(losses)

    def outputs(self, images: Tensor) -> dict[str, Tensor]:
        """Images [B, 3, H, W] -> {"logits": [B, K, H/4, W/4]}."""
        return {"logits": self.head(self.backbone(images))}

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """{"loss_ce"} or other losses by name, at the size of the labels, the `semantic` field of the targets."""
        labels = torch.stack([target.semantic for target in batch.targets])  # type: ignore[misc]
        return pixel_losses(self.losses, self.outputs(batch.images)["logits"], labels, batch.sizes)

    @torch.no_grad()
    def predict_tensors(self, images: Tensor, unpadded: Tensor, size: Tensor) -> dict[str, Tensor]:
        """{"semantic"}; see DenseModel."""
        return semantic_tensors(self.outputs(images)["logits"], images, unpadded, size)

    @torch.no_grad()
    def maps(self, images: Tensor, unpadded: Size) -> Tensor:
        """Class probabilities; see DenseModel."""
        return class_probabilities(self.outputs(images)["logits"], images, unpadded)

    @torch.no_grad()
    def predict(self, batch: Batch) -> list[Prediction]:
        """Class maps at original size: logits are resized to the network's input size, then to the original size."""
        return semantic_predictions(self.outputs(batch.images)["logits"], batch)


class SegFormerHead(nn.Module):
    """Embed all levels, upsample them to the finest, concatenate, fuse and classify.

    in_channels: channels of each level, fine to coarse. upsamplers: six, in the order c4 to 1/16, 1/8, 1/4; c3 to 1/8,
    1/4; c2 to 1/4. Each is guided by the embedding of the level whose size it reaches. If empty, each level is resized
    in one step with the interpolation `mode`.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        channels: int,
        num_classes: int,
        upsamplers: Sequence[nn.Module],
        mode: str,
        dropout: float,
    ) -> None:
        super().__init__()
        self.mode = mode
        self.embeds = nn.ModuleList(nn.Linear(width, channels) for width in in_channels)
        self.one_step = len(upsamplers) == 0
        self.upsamplers = nn.ModuleList(upsamplers)
        self.fuse = nn.Conv2d(4 * channels, channels, 1, bias=False)
        self.norm = nn.BatchNorm2d(channels)
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = nn.Conv2d(channels, num_classes, 1)
        nn.init.kaiming_normal_(self.fuse.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, features: list[Tensor]) -> Tensor:
        """Levels [B, C_i, H_i, W_i] from fine to coarse -> logits [B, K, H_1, W_1]."""
        # Evaluation keeps the published order of operations, so that the counted MACs match the paper.
        folded = self.training and self.one_step
        fused = self._fuse_with_folded_weights(features) if folded else self._fuse_levels(features)
        rows = fused.permute(0, 2, 3, 1)
        # In training, batch norm needs whole maps.
        logits = self._classify(rows) if self.training else apply_by_rows(self._classify, rows, rows.shape[3])
        return logits.permute(0, 3, 1, 2)

    def _classify(self, fused: Tensor) -> Tensor:
        """Apply all layers after `fuse`. Maps [B, H, W, C] -> logits [B, H, W, K]."""
        x = F.relu(self.norm(fused.permute(0, 3, 1, 2)), inplace=True)
        logits: Tensor = self.classifier(self.dropout(x))
        return logits.permute(0, 2, 3, 1)

    def _fuse_levels(self, features: list[Tensor]) -> Tensor:
        """Apply `fuse` to the concatenated levels as a sum over levels, so that only one is at full size at a time."""
        maps, embeds = [level.permute(0, 2, 3, 1) for level in features], list(self.embeds)
        if any(upsampler.uses_guide for upsampler in self.upsamplers):
            maps = [embed(level) for embed, level in zip(embeds, maps, strict=True)]
            embeds = [nn.Identity() for _ in embeds]
        upsampled = self._upsample_embeddings(maps, embeds)
        *weights, last_weight = self.fuse.weight.chunk(4, dim=1)
        fused = None
        for weight in weights:
            convolve = functools.partial(_convolve_pointwise, weight=weight)
            fused = self._accumulate(fused, convolve, next(upsampled).permute(0, 2, 3, 1))
        fused = self._accumulate(fused, lambda rows: _convolve_pointwise(embeds[0](rows), last_weight), maps[0])
        return fused.permute(0, 3, 1, 2)

    def _accumulate(self, total: Tensor | None, function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """Add function(x) to the total in place, for x [B, H, W, C]. Outside training large maps go by rows."""
        if not self.training:
            return apply_by_rows(function, x, self.fuse.out_channels, total=total)
        return function(x) if total is None else total.add_(function(x))

    def _upsample_embeddings(self, maps: list[Tensor], embeds: list[nn.Module]) -> Iterator[Tensor]:
        """Maps [B, H, W, C_i] at 1/4 to 1/32 -> the embeddings of c4, c3, c2 at 1/4, in the order that `fuse` needs.

        The maps are also the guides. If the upsamplers read the values of their guide, the maps must already be
        embedded (and `embeds` be identities). Otherwise each level is embedded only when it is needed.
        """
        c1, c2, c3, _ = (level.permute(0, 3, 1, 2) for level in maps)
        _, e2, e3, e4 = (functools.partial(_embed, *pair) for pair in zip(embeds, maps, strict=True))
        if self.one_step:
            yield from (F.interpolate(embedding(), c1.shape[-2:], mode=self.mode) for embedding in (e4, e3, e2))
        else:
            up = self.upsamplers
            yield up[2](up[1](up[0](e4(), guide=c3), guide=c2), guide=c1)
            yield up[4](up[3](e3(), guide=c2), guide=c1)
            yield up[5](e2(), guide=c1)

    def _fuse_with_folded_weights(self, features: list[Tensor]) -> Tensor:
        """Compute the same for one_step, but resize last: embedding and `fuse` act on channels, resizing on pixels."""
        weights = self.fuse.weight.flatten(1).chunk(4, dim=1)[::-1]
        levels = (
            F.linear(level.permute(0, 2, 3, 1), weight @ embed.weight, weight @ embed.bias).permute(0, 3, 1, 2)  # type: ignore[operator]
            for level, embed, weight in zip(features, self.embeds, weights, strict=True)
        )
        finest = next(levels)
        resized = (F.interpolate(level, finest.shape[-2:], mode=self.mode) for level in levels)
        return functools.reduce(Tensor.add_, resized, finest)


def _embed(embed: nn.Module, x: Tensor) -> Tensor:
    """Map [B, H, W, C] -> [B, D, H, W]."""
    result: Tensor = embed(x)
    return result.permute(0, 3, 1, 2)


def _convolve_pointwise(x: Tensor, weight: Tensor) -> Tensor:
    """Apply a 1 x 1 convolution with weight [D, C, 1, 1]. Map [B, H, W, C] -> [B, H, W, D]."""
    return F.conv2d(x.contiguous().permute(0, 3, 1, 2), weight).permute(0, 2, 3, 1)
