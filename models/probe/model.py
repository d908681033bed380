"""The probe: a frozen backbone, x2 upsamplers, one 1x1 convolution. It judges features and upsamplers, not decoders.

The protocol of feature upsampling on vision foundation models: Fu et al., "FeatUp", ICLR 2024, section 5, train such
linear probes for semantic segmentation and depth on upsampled features. There the upsamplers were trained before, by
reconstructing features; here they learn together with the convolution, from the labels.
"""

from collections.abc import Sequence
from typing import Literal, Self

import torch
import torch.nn.functional as F
from pydantic import PositiveFloat
from torch import Tensor, nn

from config import Schema
from models.backbones.timm import TimmBackbone
from models.base import Backbone, DenseModel
from models.components import BackboneConfig, LossConfigs, UpsamplerConfig
from models.depthformer.finish import CalibrationConfig, Finish
from models.depthformer.loss import scale_invariant_log_loss
from models.layers.pixel_losses import CrossEntropyConfig, PixelLoss, pixel_losses
from models.layers.precision import without_autocast
from models.layers.resize import class_probabilities, semantic_predictions, semantic_tensors, size_of
from models.layers.simple_pyramid import shrink
from models.weights import Source, load_start, replaces_backbone
from structures import Batch, DatasetInfo, Prediction, Size

STRIDES = {"quarter": 4, "full": 1}  # of the result, by `size`
LOSSES = (CrossEntropyConfig(),)
INITIAL_SHARE = 0.25  # of max_depth: the depth that an untrained probe predicts, as an untrained DepthFormer does


class ProbeConfig(Schema):
    """A probe, for semantic segmentation or depth, which the data decide.

    backbone: stays as it is, whatever it says of frozen parts; a plain vision transformer of timm has no feature
    pyramid here. upsampler: of each x2 step from the coarsest level up to `size`. size: quarter or full size of the
    image. losses: for classes; see LossConfig in models/components.py. min_depth: smallest predicted depth, in metres.
    calibration: of predicted depth to another camera; see models/depthformer/finish.py.
    weights: a checkpoint of this repository. weights_exclude: names of tensors or submodules that keep their initial
    values, for example classifier for another class list.
    """

    name: Literal["probe"] = "probe"
    backbone: BackboneConfig
    upsampler: UpsamplerConfig
    size: Literal["quarter", "full"] = "quarter"
    losses: LossConfigs = LOSSES
    min_depth: PositiveFloat = 0.001
    calibration: CalibrationConfig | None = None
    weights: Source | None = None
    weights_exclude: tuple[str, ...] = ()

    def build(self, info: DatasetInfo, pretrained: bool = True) -> DenseModel:
        """Build the model for the classes or the depth range of `info`. pretrained: load the weights it names."""
        if info.task not in ("semantic", "depth"):
            what = f"{info.name} is data for the task {info.task}"
            raise ValueError(f"probe needs a class or a depth for every pixel, but {what}; use ade20k or nyu")
        if info.task == "depth" and self.losses != LOSSES:
            raise ValueError("losses compare classes, and the data have depths; remove model.losses")
        if info.task == "semantic" and self.calibration is not None:
            raise ValueError("calibration is of depth, and the data have classes; remove model.calibration")
        backbone = self.backbone.build(pretrained and not replaces_backbone(self.weights, self.weights_exclude))
        if isinstance(backbone, TimmBackbone):
            backbone.remove_pyramid()
        (*finer, (channels, coarsest)), end = backbone.feature_info, STRIDES[self.size]
        widths = {level.stride: level.channels for level in finer}
        upsamplers, stride = [], coarsest
        while stride > end:
            stride //= 2
            upsamplers.append(self.upsampler.build(channels, widths.get(stride, backbone.in_channels)))
        model: Probe
        if info.task == "semantic":
            losses = [loss.build(info) for loss in self.losses]
            model = SemanticProbe(backbone, upsamplers, nn.Conv2d(channels, info.num_classes, 1), losses)
        else:
            assert info.max_depth is not None
            finish = Finish(self.min_depth, info.max_depth, self.calibration)
            model = DepthProbe(backbone, upsamplers, nn.Conv2d(channels, 1, 1), finish)
        if self.weights and pretrained:
            model.left_out = load_start(model, self.weights, self.weights_exclude)
        return model


class Probe(DenseModel):
    """What both tasks share: the map that the classifier makes of upsampled features.

    An upsampler with a guide gets the level of its output's size or, where the backbone has none, the image, shrunk to
    that size. The backbone stays in evaluation mode: its weights and running statistics never change.
    """

    def __init__(self, backbone: Backbone, upsamplers: Sequence[nn.Module], classifier: nn.Conv2d) -> None:
        super().__init__()
        self.backbone = backbone.requires_grad_(False).eval()
        self.upsamplers = nn.ModuleList(upsamplers)
        self.classifier = classifier

    def train(self, mode: bool = True) -> Self:
        """See nn.Module. The backbone stays in evaluation mode."""
        super().train(mode)
        self.backbone.eval()
        return self

    def upsampled_features(self, images: Tensor) -> Tensor:
        """Images [B, C, H, W] -> the coarsest level at quarter or full size, [B, D, H / t, W / t], rounded up."""
        with torch.no_grad():
            levels = self.backbone(images)
        strides = [level.stride for level in self.backbone.feature_info]
        guides = dict(zip(strides[:-1], levels[:-1], strict=True))
        x, stride = levels[-1], strides[-1]
        for upsampler in self.upsamplers:
            stride //= 2
            x = upsampler(x, guide=guides[stride] if stride in guides else shrink(images, stride))
        return x


class SemanticProbe(Probe):
    """Semantic segmentation. Raw output: logits [B, K, h, w] at quarter or full size."""

    def __init__(
        self,
        backbone: Backbone,
        upsamplers: Sequence[nn.Module],
        classifier: nn.Conv2d,
        losses: Sequence[PixelLoss],
    ) -> None:
        super().__init__(backbone, upsamplers, classifier)
        self.losses = nn.ModuleList(losses)

    def outputs(self, images: Tensor) -> dict[str, Tensor]:
        """Images [B, C, H, W] -> {"logits": [B, K, h, w]}."""
        return {"logits": self.classifier(self.upsampled_features(images))}

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


class DepthProbe(Probe):
    """Metric depth: ReLU(x) + min_depth, without an upper bound in training. Raw output: depth [B, 1, h, w], metres."""

    def __init__(
        self,
        backbone: Backbone,
        upsamplers: Sequence[nn.Module],
        classifier: nn.Conv2d,
        finish: Finish,
    ) -> None:
        super().__init__(backbone, upsamplers, classifier)
        self.min_depth, self.finish = finish.nearest, finish
        nn.init.normal_(classifier.weight, std=0.001)  # features of a trained transformer may be large
        nn.init.constant_(classifier.bias, INITIAL_SHARE * finish.farthest)  # type: ignore[arg-type]

    def outputs(self, images: Tensor) -> dict[str, Tensor]:
        """Images [B, C, H, W] -> {"depth": [B, 1, h, w]}, metres, float32."""
        x = self.upsampled_features(images)
        with without_autocast(x):  # at 5 m bfloat16 resolves only 3 cm
            return {"depth": self.classifier(x.float()).relu() + self.min_depth}

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """{"loss_silog"}: the scale-invariant log loss over all measured pixels of the targets' `depth`."""
        labels = torch.stack([target.depth for target in batch.targets])  # type: ignore[misc]
        depth = F.interpolate(self.outputs(batch.images)["depth"], labels.shape[-2:], mode="bilinear")
        return {"loss_silog": scale_invariant_log_loss(depth, labels)}

    @torch.no_grad()
    def predict_tensors(self, images: Tensor, unpadded: Tensor, size: Tensor) -> dict[str, Tensor]:
        """{"depth"}; see DenseModel."""
        depth = self._depth_at_input_size(images)
        height, width = size_of(unpadded, within=(images.shape[2], images.shape[3]))
        return {"depth": F.interpolate(depth[:, :, :height, :width], size_of(size), mode="bilinear")[0, 0]}

    @torch.no_grad()
    def maps(self, images: Tensor, unpadded: Size) -> Tensor:
        """Depths; see DenseModel."""
        return self._depth_at_input_size(images)[:, :, : unpadded[0], : unpadded[1]]

    @torch.no_grad()
    def predict(self, batch: Batch) -> list[Prediction]:
        """Depth maps [H, W] at original size, metres, float32, calibrated and clamped to min_depth..max_depth."""
        depth = self._depth_at_input_size(batch.images)
        return [
            Prediction(depth=F.interpolate(each[None, :, : size[0], : size[1]], target.size, mode="bilinear")[0, 0])
            for each, size, target in zip(depth, batch.sizes, batch.targets, strict=True)
        ]

    def _depth_at_input_size(self, images: Tensor) -> Tensor:
        """Images [B, C, H, W] -> depth [B, 1, H, W], metres, calibrated and clamped to min_depth..max_depth."""
        depth = self.finish(self.outputs(images)["depth"])
        return F.interpolate(depth, images.shape[-2:], mode="bilinear")
