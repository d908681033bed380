"""Faster R-CNN (Ren et al., NeurIPS 2015) and Mask R-CNN (He et al., ICCV 2017) on a feature pyramid.

The defaults are mmdetection's 1x recipe. DySample's Tables 6 and 7 vary only the upsamplers in the pyramid.
"""

from dataclasses import replace
from typing import Any, Literal

import torch
from pydantic import PositiveInt
from torch import Tensor

from config import Schema
from models.base import Backbone, DenseModel
from models.components import BackboneConfig, UpsamplerConfig
from models.layers.fpn import FPN, NeckName
from models.layers.resize import size_of
from models.rcnn.box_head import BoxHead, BoxHeadConfig, RegionConfig
from models.rcnn.mask_head import MaskHead, encode_masks, pasted_masks
from models.rcnn.rpn import RPN, RPNConfig
from models.weights import Source, load_start, replaces_backbone
from structures import Batch, DatasetInfo, Instances, Prediction


class _RCNNConfig(Schema):
    """Options that both detectors share.

    upsampler: upsampler of the pyramid. channels: channels of the pyramid. neck, upsampler_init: see
    models/layers/fpn.py. weights: a converted detector or a checkpoint of this repository.
    weights_exclude: names of tensors or submodules that keep their initial values, for example box_head.classifier and
    box_head.deltas for another class list.
    """

    backbone: BackboneConfig
    neck: NeckName
    upsampler: UpsamplerConfig
    upsampler_init: Literal["own", "xavier"] = "own"
    channels: PositiveInt = 256
    rpn: RPNConfig = RPNConfig()
    regions: RegionConfig = RegionConfig()
    box_head: BoxHeadConfig
    weights: Source | None = None
    weights_exclude: tuple[str, ...] = ()

    def build_parts(self, num_classes: int, pretrained: bool) -> tuple[Backbone, FPN, RPN, BoxHead]:
        """Build all parts except the mask head."""
        backbone = self.backbone.build(pretrained and not replaces_backbone(self.weights, self.weights_exclude))
        widths = [level.channels for level in backbone.feature_info]
        neck = FPN(widths, self.channels, self.upsampler, self.neck == "fpn_p6", self.upsampler_init)
        rpn = RPN(self.channels, self.rpn)
        return backbone, neck, rpn, BoxHead(self.channels, num_classes, self.box_head, self.regions)

    def load_pretrained(self, model: DenseModel, pretrained: bool) -> DenseModel:
        """Return the model. pretrained: first load the weights that the config names."""
        if self.weights and pretrained:
            model.left_out = load_start(model, self.weights, self.weights_exclude)
        return model


class FasterRCNNConfig(_RCNNConfig):
    """A Faster R-CNN. The default neck is that of DySample's Table 6."""

    name: Literal["faster_rcnn"] = "faster_rcnn"
    neck: NeckName = "fpn_p6"
    box_head: BoxHeadConfig = BoxHeadConfig()

    def build(self, info: DatasetInfo, pretrained: bool = True) -> DenseModel:
        """Build the model for the classes of `info`. pretrained: load the weights that the config names."""
        _require_objects(info)
        if info.task != "detection":
            raise ValueError("faster_rcnn predicts no masks; set data.masks=false, or use mask_rcnn")
        return self.load_pretrained(RCNN(*self.build_parts(info.num_classes, pretrained), None), pretrained)


class MaskRCNNConfig(_RCNNConfig):
    """A Mask R-CNN. The default neck is the plain one: section 4.2 of the DySample paper says so; Table 7 contradicts.

    mask_channels: channels of the mask head. mask_upsampler: upsampler of the mask head; None: a transposed
    convolution, as in the recipe.
    """

    name: Literal["mask_rcnn"] = "mask_rcnn"
    neck: NeckName = "fpn"
    box_head: BoxHeadConfig = BoxHeadConfig(best_match=True)
    mask_channels: PositiveInt = 256
    mask_upsampler: UpsamplerConfig | None = None

    def build(self, info: DatasetInfo, pretrained: bool = True) -> DenseModel:
        """Build the model for the classes of `info`. pretrained: load the weights that the config names."""
        _require_objects(info)
        if info.task != "instance":
            raise ValueError("mask_rcnn needs masks to learn from; set data.masks=true, or use faster_rcnn")
        model = RCNN(*self.build_parts(info.num_classes, pretrained), self.build_mask_head(info.num_classes))
        return self.load_pretrained(model, pretrained)

    def build_mask_head(self, num_classes: int) -> MaskHead:
        """Build the third stage."""
        upsampler = None
        if self.mask_upsampler is not None:
            upsampler = self.mask_upsampler.build(self.mask_channels, self.channels)
        return MaskHead(self.channels, self.mask_channels, num_classes, upsampler, self.regions)


def _require_objects(info: DatasetInfo) -> None:
    if info.task not in ("detection", "instance"):
        what = f"a detector needs boxes, but {info.name} is data for the task {info.task}"
        raise ValueError(f"{what}; use data with boxes, as configs/det_dysample.yaml does")


class RCNN(DenseModel):
    """A detector with two stages, or three if it has a mask head. Raw outputs: see `outputs`."""

    def __init__(self, backbone: Backbone, neck: FPN, rpn: RPN, box_head: BoxHead, mask_head: MaskHead | None) -> None:
        super().__init__()
        self.backbone = backbone
        self.neck = neck
        self.rpn = rpn
        self.box_head = box_head
        self.mask_head = mask_head
        self.size_divisor = 2 ** (1 + len(neck.laterals))  # so that every step of the pyramid is exactly x2

    def outputs(self, images: Tensor) -> dict[str, Any]:
        """Images [B, 3, H, W] -> {"features", "objectness", "deltas"}, each a list over P2..P6, fine to coarse.

        features: [B, C, h, w]. objectness: logits [B, h * w * A]. deltas: [B, h * w * A, 4].
        """
        pyramid = self.neck(self.backbone(images))
        logits, deltas, _ = self.rpn(pyramid)
        return {"features": pyramid, "objectness": logits, "deltas": deltas}

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """{"loss_rpn_cls", "loss_rpn_box", "loss_cls", "loss_box"} and, with masks, "loss_mask"."""
        return self.instance_losses(self.neck(self.backbone(batch.images)), batch)

    def instance_losses(self, pyramid: list[Tensor], batch: Batch) -> dict[str, Tensor]:
        """The losses of all stages on P2..P6 [B, C, h, w]."""
        # Compute the RPN losses before the no_grad pass. Autocast caches the cast weights; weights cached under no_grad
        # would get no gradient.
        losses: dict[str, Tensor] = self.rpn.losses(pyramid, batch, self.size_divisor)
        with torch.no_grad():
            proposals = self.rpn.propose(self.rpn(pyramid), batch.sizes)
        samples = [self.box_head.sample(*part) for part in zip(proposals, batch.targets, strict=True)]
        losses |= self.box_head.losses(pyramid, samples, batch.targets)
        if self.mask_head is not None:
            losses |= self.mask_head.losses(pyramid, samples, batch.targets)
        return losses

    @torch.no_grad()
    def predict(self, batch: Batch) -> list[Prediction]:
        """Boxes, labels, scores and, with a mask head, run-length encoded masks, at the images' original sizes."""
        pyramid = self.neck(self.backbone(batch.images))
        predictions = []
        for (found, masks), target in zip(self.detect(pyramid, batch), batch.targets, strict=True):
            rles = None if masks is None else encode_masks(masks, found.boxes, target.size)
            predictions.append(Prediction(instances=replace(found, rles=rles)))
        return predictions

    @torch.no_grad()
    def predict_tensors(self, images: Tensor, unpadded: Tensor, size: Tensor) -> dict[str, Tensor]:
        """{"boxes", "scores", "labels"} and, with a mask head, "masks"; see DenseModel."""
        found, masks = self.detect_in_one(self.neck(self.backbone(images)), unpadded, size)
        assert found.scores is not None
        tensors = {"boxes": found.boxes, "scores": found.scores, "labels": found.labels}
        return tensors if masks is None else tensors | {"masks": pasted_masks(masks, found.boxes, size_of(size))}

    def detect_in_one(self, pyramid: list[Tensor], unpadded: Tensor, size: Tensor) -> tuple[Instances, Tensor | None]:
        """`detect` for a single image, with its sizes in tensors [2]; for `predict_tensors`."""
        found = self.box_head.detect_in_one(pyramid, self.rpn.propose_in(self.rpn(pyramid), 0, unpadded), unpadded)
        masks = None if self.mask_head is None else self.mask_head.predict_masks_in_one(pyramid, found)
        return replace(found, boxes=found.boxes * (size / unpadded).flip(0).repeat(2)), masks

    def detect(self, pyramid: list[Tensor], batch: Batch) -> list[tuple[Instances, Tensor | None]]:
        """For each image: its detections with boxes in pixels of the original image, and its masks.

        Detections are those of `BoxHead.detect`. Masks are those of `MaskHead.predict_masks`, [N, 28, 28], or None
        without a mask head.
        """
        proposals = self.rpn.propose(self.rpn(pyramid), batch.sizes)
        detections = self.box_head.detect(pyramid, proposals, batch.sizes)
        masks: list[Any] = [None] * len(detections)
        if self.mask_head is not None:
            masks = self.mask_head.predict_masks(pyramid, detections)
        at_original_size = []
        for found, (height, width), target in zip(detections, batch.sizes, batch.targets, strict=True):
            factors = [target.size[1] / width, target.size[0] / height]
            at_original_size.append(replace(found, boxes=found.boxes * found.boxes.new_tensor(factors * 2)))
        return list(zip(at_original_size, masks, strict=True))
