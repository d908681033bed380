"""DepthFormer: metric depth from one image. Li et al., Machine Intelligence Research 2023, as in the authors' toolbox.

It has a transformer backbone at 1/4 to 1/32 of the image; a convolutional branch at 1/2, which is only a stem, as in
the toolbox; a neck with attention between them; and a decoder with four upsampling stages.
"""

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
from models.depthformer.finish import CalibrationConfig, Finish
from models.depthformer.hahi import HAHI, conv_norm_relu
from models.depthformer.loss import scale_invariant_log_loss
from models.layers.resize import size_of
from models.weights import Source, load_start, replaces_backbone
from structures import Batch, DatasetInfo, Prediction, Size


class DepthFormerConfig(Schema):
    """A DepthFormer. The maximal depth (max_depth) is that of the data.

    stem_channels: channels of the convolutional branch. channels, points, dropout: options of the neck (see
    models/depthformer/hahi.py).
    activation: relu: ReLU(x) + min_depth, as published; sigmoid: sigmoid(x) * max_depth, the toolbox's alternative.
    min_depth: smallest predicted depth, in metres. flip_test: predict the mean over the image and its mirror image, as
    for the published numbers. size_divisor: images are padded to multiples of it; 1: not padded, as in the toolbox.
    calibration: of predictions to another camera; see models/depthformer/finish.py.
    weights: a converted DepthFormer or a checkpoint of this repository. weights_exclude: names of tensors or submodules
    that keep their initial values.
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
    size_divisor: PositiveInt = 32
    calibration: CalibrationConfig | None = None
    weights: Source | None = None
    weights_exclude: tuple[str, ...] = ()

    def build(self, info: DatasetInfo, pretrained: bool = True) -> DenseModel:
        """Build the model for the depth range of `info`. pretrained: load the weights that the config names."""
        if info.max_depth is None:
            what = f"{info.name} is data for the task {info.task}"
            raise ValueError(
                f"depthformer needs depths, but {what}; use data with depths, as configs/depth_dysample.yaml does"
            )
        if self.min_depth >= info.max_depth:
            raise ValueError(
                f"min_depth {self.min_depth:g} is not below the largest depth of the data, {info.max_depth:g}"
            )
        backbone = self.backbone.build(pretrained and not replaces_backbone(self.weights, self.weights_exclude))
        widths = [self.stem_channels, *(level.channels for level in backbone.feature_info)]
        neck = HAHI(widths, self.channels, self.points, self.dropout)
        decoder = Decoder(widths, self.upsampler, self.activation, self.min_depth, info.max_depth)
        stem = conv_norm_relu(backbone.in_channels, self.stem_channels, 7, stride=2)
        model = DepthFormer(backbone, stem, neck, decoder, self.flip_test)
        model.size_divisor = self.size_divisor
        model.finish = Finish(self.min_depth, info.max_depth, self.calibration)
        if self.weights and pretrained:
            model.left_out = load_start(model, self.weights, self.weights_exclude)
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
        self.finish = Finish(decoder.min_depth, decoder.max_depth)

    def outputs(self, images: Tensor) -> dict[str, Tensor]:
        """Images [B, 3, H, W] -> {"depth": [B, 1, H, W]}, metres; with activation "relu" without an upper bound."""
        return {"depth": _resize(self._half_size_depth(images), images.shape[-2:])}

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """{"loss_silog"}: the scale-invariant log loss over all measured pixels of the targets' `depth`."""
        labels = torch.stack([target.depth for target in batch.targets])  # type: ignore[misc]
        return {"loss_silog": scale_invariant_log_loss(self.outputs(batch.images)["depth"], labels)}

    @torch.no_grad()
    def predict_tensors(self, images: Tensor, unpadded: Tensor, size: Tensor) -> dict[str, Tensor]:
        """{"depth"}; see DenseModel. The mirror image is predicted in one batch with the image."""
        width = unpadded[1]
        depth = self._predict_depth(torch.cat([images, _mirror(images, width)]) if self.flip_test else images)
        if self.flip_test:
            depth = (depth[:1] + _mirror(depth[1:], width)) / 2
        rows, columns = size_of(unpadded, within=(images.shape[2], images.shape[3]))
        return {"depth": _resize(depth[:, :, :rows, :columns], size_of(size))[0, 0]}

    @torch.no_grad()
    def maps(self, images: Tensor, unpadded: Size) -> Tensor:
        """Depths; see DenseModel."""
        return self._predict_twice(images, [unpadded] * len(images))[:, :, : unpadded[0], : unpadded[1]]

    @torch.no_grad()
    def predict(self, batch: Batch) -> list[Prediction]:
        """Depth maps [H, W] at original size, metres, float32, calibrated and clamped to min_depth..max_depth."""
        depth = self._predict_twice(batch.images, batch.sizes)
        return [
            Prediction(depth=_resize(each[None, :, : size[0], : size[1]], target.size)[0, 0])
            for each, size, target in zip(depth, batch.sizes, batch.targets, strict=True)
        ]

    def _predict_twice(self, images: Tensor, sizes: list[Size]) -> Tensor:
        """`_predict_depth`; with `flip_test` the mean over the images and their mirror images."""
        depth = self._predict_depth(images)
        if self.flip_test:
            depth = (depth + _mirror_each(self._predict_depth(_mirror_each(images, sizes)), sizes)) / 2
        return depth

    def _half_size_depth(self, images: Tensor) -> Tensor:
        """Images [B, 3, H, W] -> depth [B, 1, H / 2, W / 2], metres."""
        return self.decoder(self.neck([self.stem(images), *self.backbone(images)]))

    def _predict_depth(self, images: Tensor) -> Tensor:
        """Images [B, 3, H, W] -> depth [B, 1, H, W], metres, calibrated and clamped to min_depth..max_depth."""
        depth = self.finish(self._half_size_depth(images))
        return _resize(depth, images.shape[-2:])


def _resize(depth: Tensor, size: Size | torch.Size) -> Tensor:
    """Resize depth maps [B, 1, h, w] bilinearly with align_corners=True, as in the original."""
    return F.interpolate(depth, size=tuple(size), mode="bilinear", align_corners=True)


def _mirror_each(maps: Tensor, sizes: list[Size]) -> Tensor:
    """Flip each map of [B, C, H, W] as `_mirror` does; sizes: (height, width) of its part without padding."""
    return torch.cat([_mirror(each, width) for each, (_, width) in zip(maps.split(1), sizes, strict=True)])


def _mirror(maps: Tensor, width: int | Tensor) -> Tensor:
    """Flip the first `width` columns of maps [B, C, H, W] horizontally; those beyond, which are padding, stay."""
    columns = torch.arange(maps.shape[3], device=maps.device)
    return maps.index_select(3, torch.where(columns < width, width - 1 - columns, columns))
