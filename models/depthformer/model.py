"""DepthFormer: metric depth from one image. Li et al., Machine Intelligence Research 2023, as in the authors' toolbox.

A transformer at 1/4 to 1/32 of the image and a convolutional branch at 1/2, here as there only a stem; a neck in which
they attend to each other; a decoder with four upsampling stages.
"""

from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor, nn

from config import Rate, Schema
from models.backbones.swin import SwinConfig
from models.base import Backbone, DenseModel
from models.components import BackboneConfig, UpsamplerConfig
from models.depthformer.decoder import Activation, Decoder
from models.depthformer.hahi import HAHI, unit
from models.depthformer.loss import scale_invariant_log_loss
from models.weights import load_weights
from structures import Batch, DatasetInfo, Prediction, Size


class DepthFormerConfig(Schema):
    """A DepthFormer. The largest depth is that of the data.

    stem_channels: of the convolutional branch. channels, points, dropout: of the neck (see models/depthformer/hahi.py).
    activation: relu: ReLU + min_depth metres, as published; sigmoid: times the largest depth, the toolbox's other way.
    flip_test: predict the mean of the image's and its mirror image's depth, as the published numbers do.
    weights: a converted DepthFormer or a checkpoint of ours; weights_exclude: names, or beginnings of names, of what to
    leave at its start.
    """

    name: Literal["depthformer"] = "depthformer"
    backbone: BackboneConfig = SwinConfig(name="swin_t")
    upsampler: UpsamplerConfig
    stem_channels: PositiveInt = 64
    channels: PositiveInt = 256
    points: PositiveInt = 8
    dropout: Rate = 0.1
    activation: Activation = "relu"
    min_depth: PositiveFloat = 0.001
    flip_test: bool = True
    weights: Path | None = None
    weights_exclude: tuple[str, ...] = ()

    def build(self, info: DatasetInfo, pretrained: bool = True) -> DenseModel:
        """The model for the depths of `info`; `pretrained`: with the weights that this record names."""
        if info.max_depth is None:
            what = f"{info.name} is data for the task {info.task}"
            raise ValueError(f"depthformer needs depths, but {what}; use data.name=nyu")
        if self.min_depth >= info.max_depth:
            raise ValueError(
                f"min_depth {self.min_depth:g} is not below the largest depth of the data, {info.max_depth:g}"
            )
        backbone = self.backbone.build(pretrained and self.weights is None)
        widths = [self.stem_channels, *(level.channels for level in backbone.feature_info)]
        neck = HAHI(widths, self.channels, self.points, self.dropout)
        decoder = Decoder(widths, self.upsampler, self.activation, self.min_depth, info.max_depth)
        model = DepthFormer(backbone, unit(3, self.stem_channels, 7, stride=2), neck, decoder, self.flip_test)
        if self.weights and pretrained:
            load_weights(model, self.weights, "model.weights", self.weights_exclude)
        return model


class DepthFormer(DenseModel):
    """Metric depth. Raw output: depth [B, 1, H, W], metres."""

    def __init__(self, backbone: Backbone, stem: nn.Module, neck: HAHI, decoder: Decoder, flip_test: bool) -> None:
        super().__init__()
        self.backbone = backbone
        self.stem = stem
        self.neck = neck
        self.decoder = decoder
        self.flip_test = flip_test

    def outputs(self, images: Tensor) -> dict[str, Tensor]:
        """Images [B, 3, H, W] -> {"depth": [B, 1, H, W]}, metres, with activation "relu" without an upper end."""
        return {"depth": _resized(self._depth(images), images.shape[-2:])}

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """{"loss_silog"}: the scale-invariant log loss over all measured pixels of the batch's `depth`."""
        labels = torch.stack([target.depth for target in batch.targets])  # type: ignore[misc]
        return {"loss_silog": scale_invariant_log_loss(self.outputs(batch.images)["depth"], labels)}

    @torch.no_grad()
    def predict(self, batch: Batch) -> list[Prediction]:
        """Depth [H, W] at original size, float32, within the model's range."""
        depth = self._clamped(batch.images)
        if self.flip_test:
            mirrored = self._clamped(_mirrored(batch.images, batch.sizes))
            depth = (depth + _mirrored(mirrored, batch.sizes)) / 2
        return [
            Prediction(depth=_resized(each[None, :, : size[0], : size[1]], target.size)[0, 0])
            for each, size, target in zip(depth, batch.sizes, batch.targets, strict=True)
        ]

    def _depth(self, images: Tensor) -> Tensor:
        """Images [B, 3, H, W] -> depth [B, 1, H / 2, W / 2], metres."""
        return self.decoder(self.neck([self.stem(images), *self.backbone(images)]))

    def _clamped(self, images: Tensor) -> Tensor:
        """Depth [B, 1, H, W] within the model's range."""
        depth = self._depth(images).clamp(self.decoder.min_depth, self.decoder.max_depth)
        return _resized(depth, images.shape[-2:])


def _resized(depth: Tensor, size: Size | torch.Size) -> Tensor:
    """Depth maps [B, 1, h, w] in another size, interpolated from corner to corner as in the original."""
    return F.interpolate(depth, size=tuple(size), mode="bilinear", align_corners=True)


def _mirrored(maps: Tensor, sizes: list[Size]) -> Tensor:
    """Maps [B, C, H, W], the part of each inside the padding with left and right exchanged."""
    result = maps.clone()
    for each, (_, width) in zip(result, sizes, strict=True):
        each[..., :width] = each[..., :width].flip(-1)
    return result
