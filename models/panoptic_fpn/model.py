"""Panoptic FPN: Mask R-CNN and a semantic head on one pyramid. Kirillov et al., CVPR 2019.

The defaults are mmdetection's 1x recipe. DySample's Table 8 varies only the upsamplers in the pyramid.
"""

from dataclasses import replace
from typing import Any, Literal

import torch
from pydantic import NonNegativeFloat, PositiveInt
from torch import Tensor

from models.base import Backbone, DenseModel
from models.components import UpsamplerConfig
from models.layers.fpn import FPN
from models.layers.resize import resized_argmax, semantic_tensors, size_of
from models.panoptic_fpn.fusion import FusionConfig, fuse, fuse_tensors
from models.panoptic_fpn.semantic_head import SemanticHead
from models.rcnn.box_head import BoxHead, BoxHeadConfig
from models.rcnn.mask_head import MaskHead, paste_masks, pasted_masks
from models.rcnn.model import RCNN, MaskRCNNConfig
from models.rcnn.rpn import RPN
from structures import Batch, DatasetInfo, Prediction, Target
from upsamplers import BilinearConfig


class PanopticFPNConfig(MaskRCNNConfig):
    """A Panoptic FPN: the options of a Mask R-CNN, and those of the semantic head and of the fusion.

    semantic_channels: channels of the semantic head; a multiple of 32. semantic_upsampler: upsampler of its six
    upsampling stages. semantic_weight: weight of its loss; the losses of Mask R-CNN have weight 1.
    """

    name: Literal["panoptic_fpn"] = "panoptic_fpn"  # type: ignore[assignment]
    box_head: BoxHeadConfig = BoxHeadConfig(best_match=True, min_score=0.6, class_agnostic_nms=True)
    semantic_channels: PositiveInt = 128
    semantic_upsampler: UpsamplerConfig = BilinearConfig()
    semantic_weight: NonNegativeFloat = 0.5
    fusion: FusionConfig = FusionConfig()

    def build(self, info: DatasetInfo, pretrained: bool = True) -> DenseModel:
        """Build the model for the classes of `info`. pretrained: load the weights that the config names."""
        if info.task != "panoptic":
            what = f"panoptic_fpn needs a segment for every pixel, but {info.name} is data for the task {info.task}"
            raise ValueError(f"{what}; use panoptic data, as configs/pan_dysample.yaml does")
        if not any(info.things):
            what = f"none of the classes of {info.name} is a thing"
            raise ValueError(f"panoptic_fpn needs things, but {what}: use maskformer, which does not need any")
        stuff = len(info.things) - sum(info.things)
        head = SemanticHead(self.channels, self.semantic_channels, stuff + 1, self.semantic_upsampler)
        parts = self.build_parts(sum(info.things), pretrained)
        mask_head = self.build_mask_head(sum(info.things))
        model = PanopticFPN(*parts, mask_head, head, self.semantic_weight, info.things, self.fusion)
        return self.load_pretrained(model, pretrained)


class PanopticFPN(RCNN):
    """A Mask R-CNN for the things and a semantic head for the stuff.

    things: for each label of the data, whether it is a thing. The classes of the Mask R-CNN are the thing labels in
    their order. The classes of the semantic head are the stuff labels in their order and, last, one for all things.
    """

    mask_head: MaskHead

    def __init__(
        self,
        backbone: Backbone,
        neck: FPN,
        rpn: RPN,
        box_head: BoxHead,
        mask_head: MaskHead,
        semantic_head: SemanticHead,
        semantic_weight: float,
        things: tuple[bool, ...],
        fusion: FusionConfig,
    ) -> None:
        super().__init__(backbone, neck, rpn, box_head, mask_head)
        self.semantic_head = semantic_head
        self.semantic_weight = semantic_weight
        self.fusion = fusion
        self.thing_labels = [label for label, is_thing in enumerate(things) if is_thing]
        self.stuff_labels = [label for label, is_thing in enumerate(things) if not is_thing]
        # For each label of the data: its class in the Mask R-CNN (things only), and its class in the semantic head.
        numbers, classes = torch.full((2, len(things)), len(self.stuff_labels))
        numbers[self.thing_labels] = torch.arange(len(self.thing_labels))
        classes[self.stuff_labels] = torch.arange(len(self.stuff_labels))
        self.register_buffer("thing_numbers", numbers, persistent=False)
        self.register_buffer("semantic_classes", classes, persistent=False)

    thing_numbers: Tensor
    semantic_classes: Tensor

    def outputs(self, images: Tensor) -> dict[str, Any]:
        """The outputs of a detector, and "semantic": logits [B, S + 1, H/4, W/4] of S stuff classes, things last."""
        outputs = super().outputs(images)
        return {**outputs, "semantic": self.semantic_head(outputs["features"])}

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """The losses of a Mask R-CNN, and "loss_semantic". Targets must have `instances` and `semantic`."""
        pyramid = self.neck(self.backbone(batch.images))
        semantic = self.semantic_head.loss(pyramid, batch, self.semantic_classes, self.size_divisor)
        things = replace(batch, targets=[self._relabel_things(target) for target in batch.targets])
        return {**self.instance_losses(pyramid, things), "loss_semantic": self.semantic_weight * semantic}

    @torch.no_grad()
    def predict_tensors(self, images: Tensor, unpadded: Tensor, size: Tensor) -> dict[str, Tensor]:
        """{"ids", "segment_labels"}; see DenseModel."""
        pyramid = self.neck(self.backbone(images))
        found, probabilities = self.detect_in_one(pyramid, unpadded, size)
        assert probabilities is not None
        labels = torch.tensor(self.thing_labels, device=images.device)[found.labels]
        masks = pasted_masks(probabilities, found.boxes, size_of(size))
        semantic = semantic_tensors(self.semantic_head(pyramid), images, unpadded, size)["semantic"]
        ids, segment_labels = fuse_tensors(labels, masks, semantic, self.stuff_labels, self.fusion)
        return {"ids": ids, "segment_labels": segment_labels}

    @torch.no_grad()
    def predict(self, batch: Batch) -> list[Prediction]:
        """The panoptic segmentation of each image, at its original size."""
        pyramid = self.neck(self.backbone(batch.images))
        logits = self.semantic_head(pyramid)
        padded = batch.images.shape[-2], batch.images.shape[-1]
        predictions = []
        for (found, masks), scores, unpadded, target in zip(
            self.detect(pyramid, batch), logits, batch.sizes, batch.targets, strict=True
        ):
            assert masks is not None
            labels = [self.thing_labels[number] for number in found.labels.tolist()]
            instances = zip(labels, paste_masks(masks, found.boxes, target.size), strict=True)
            semantic = resized_argmax(scores, padded, unpadded, target.size)
            predictions.append(Prediction(panoptic=fuse(instances, semantic, self.stuff_labels, self.fusion)))
        return predictions

    def _relabel_things(self, target: Target) -> Target:
        """The target with the labels of its objects replaced by their classes in the Mask R-CNN."""
        assert target.instances is not None
        return replace(target, instances=replace(target.instances, labels=self.thing_numbers[target.instances.labels]))
