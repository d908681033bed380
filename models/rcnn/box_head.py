"""The second stage of R-CNN: it predicts a class and a better box from the RoIAlign features of every proposal.

Ren et al., NeurIPS 2015; Lin et al., CVPR 2017. RoIAlign: He et al., "Mask R-CNN", ICCV 2017.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor, nn

from config import Fraction, Schema
from models.rcnn.boxes import (
    area,
    assign,
    batched_nms,
    decode,
    encode,
    objects_and_crowds,
    roi_align_levels,
    sample_boxes,
)
from runtime.distributed import mean_count
from structures import Instances, Size, Target

POOLED = 7  # side of the pooled features of a region
STRIDES = (4, 8, 16, 32)  # of P2..P5; P6 is used for proposals only
FINEST_SIDE = 56  # pixels; regions with at least twice this side are pooled from P3, with four times from P4, ...


class RegionConfig(Schema):
    """Options of RoIAlign. The detectors of torchvision use aligned=false, sampling_ratio=2.

    aligned: pixel centres are at +1/2. sampling_ratio: samples per bin along each axis; 0: one per pixel.
    """

    aligned: bool = True
    sampling_ratio: NonNegativeInt = 0


def pool_regions(pyramid: Sequence[Tensor], boxes: Sequence[Tensor], size: int, config: RegionConfig) -> Tensor:
    """RoIAlign features [R, C, size, size] of the boxes [N_i, 4] of each image i, one image after another.

    Each box is pooled from one level of P2..P5 [B, C, H, W], chosen by the area of the box.
    """
    all_boxes = torch.cat(list(boxes))
    image = torch.cat([torch.full_like(of_image[:, :1], index) for index, of_image in enumerate(boxes)])
    levels = (area(all_boxes).sqrt() / FINEST_SIDE + 1e-6).log2().floor().clamp(0, len(STRIDES) - 1)
    if all_boxes.device.type == "cpu" and not torch.compiler.is_exporting():
        where = (image[:, 0].long(), levels.long(), size, STRIDES, config.sampling_ratio, config.aligned)
        pooled = roi_align_levels(pyramid[: len(STRIDES)], all_boxes, *where)
        if pooled is not None:
            return pooled
    rois = torch.cat([image, all_boxes], dim=1)
    if torch.compiler.is_exporting():
        parts = [torch.nonzero(levels == level).flatten() for level in range(len(STRIDES))]
    else:  # waits for the device once, not for each level
        counts = torch.bincount(levels.long(), minlength=len(STRIDES)).tolist()
        parts = list(levels.argsort(stable=True).split(counts))
    of_levels = [
        roi_align(features, rois[part], size, 1 / stride, config.sampling_ratio, config.aligned)
        for features, part, stride in zip(pyramid, parts, STRIDES, strict=False)
    ]
    return torch.cat(of_levels)[torch.cat(parts).argsort()]


def roi_align(features: Tensor, rois: Tensor, size: Size | int, scale: float, sampling: int, aligned: bool) -> Tensor:
    """RoIAlign (He et al., ICCV 2017) of features [B, C, H, W] for rois [N, 5] -> [N, C, h, w].

    rois: (index of the image, x1, y1, x2, y2). scale: feature pixels per image pixel. sampling, aligned: see
    `RegionConfig`.
    """
    from torchvision.ops import roi_align

    aligned_features: Tensor = roi_align(features, rois, size, scale, sampling, aligned)
    return aligned_features


class BoxHeadConfig(Schema):
    """Defaults: mmdetection's 1x recipe.

    channels: channels of the two hidden layers. positive_iou: the `positive` and `negative` of `boxes.assign`.
    best_match: every object also gets its best box, if their IoU is at least positive_iou (off in Faster R-CNN, on in
    Mask R-CNN). crowd_share: see `boxes.assign`. samples: maximum number of boxes per image that the losses use.
    positive_share: largest share of positive samples. stds: the four deltas are divided by them. min_score: detections
    must score more. nms_iou: NMS removes boxes that overlap a better one by more than this IoU. class_agnostic_nms: NMS
    over all classes together. detections: maximum number of detections per image. smallest: leave out detections with a
    shorter side, in pixels; 0: keep also those that clipping leaves empty, as mmdetection does; torchvision: 0.01.
    """

    channels: PositiveInt = 1024
    positive_iou: Fraction = 0.5
    best_match: bool = False
    crowd_share: Fraction | None = 0.5
    samples: PositiveInt = 512
    positive_share: Fraction = 0.25
    stds: tuple[PositiveFloat, PositiveFloat, PositiveFloat, PositiveFloat] = (0.1, 0.1, 0.2, 0.2)
    min_score: Fraction = 0.05
    nms_iou: Fraction = 0.5
    class_agnostic_nms: bool = False
    detections: PositiveInt = 100
    smallest: NonNegativeFloat = 0


class SampledBoxes(NamedTuple):
    """The boxes of one image that the losses use.

    boxes: [N, 4], positives first. labels: [N], K for background. objects: [P], for each of the P positives the index
    of its object in the target.
    """

    boxes: Tensor
    labels: Tensor
    objects: Tensor


class BoxHead(nn.Module):
    """Two hidden layers on the 7 x 7 features of a region, then K + 1 classes (background last) and a box per class."""

    def __init__(self, channels: int, num_classes: int, config: BoxHeadConfig, regions: RegionConfig) -> None:
        super().__init__()
        self.config = config
        self.regions = regions
        self.num_classes = num_classes
        self.fc1 = nn.Linear(channels * POOLED**2, config.channels)
        self.fc2 = nn.Linear(config.channels, config.channels)
        self.classifier = nn.Linear(config.channels, num_classes + 1)
        self.deltas = nn.Linear(config.channels, 4 * num_classes)
        nn.init.xavier_uniform_(self.fc1.weight)
        nn.init.xavier_uniform_(self.fc2.weight)
        nn.init.normal_(self.classifier.weight, std=0.01)
        nn.init.normal_(self.deltas.weight, std=0.001)
        for layer in (self.fc1, self.fc2, self.classifier, self.deltas):
            nn.init.zeros_(layer.bias)

    def forward(self, pyramid: Sequence[Tensor], boxes: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """P2..P5 [B, C, H, W], boxes [N_i, 4] of each image -> class logits [R, K + 1], deltas [R, K, 4]; float32."""
        x = pool_regions(pyramid, boxes, POOLED, self.regions).flatten(1)
        x = F.relu(self.fc2(F.relu(self.fc1(x), inplace=True)), inplace=True)
        return self.classifier(x).float(), self.deltas(x).float().unflatten(1, (self.num_classes, 4))

    @torch.no_grad()
    def sample(self, proposals: Tensor, target: Target) -> SampledBoxes:
        """Choose at random boxes for the losses, from the proposals [N, 4] and the true boxes of the objects."""
        instances, config = target.instances, self.config
        assert instances is not None
        indices, crowds = objects_and_crowds(target)
        objects = instances.boxes[indices]
        matched = assign(
            proposals,
            objects,
            crowds,
            positive=config.positive_iou,
            negative=config.positive_iou,
            best_match=config.positive_iou if config.best_match else None,
            crowd_share=config.crowd_share,
        )
        boxes = torch.cat([objects, proposals])
        matched = torch.cat([torch.arange(len(objects), device=matched.device), matched])
        positives, negatives = sample_boxes(matched, config.samples, config.positive_share, target.seed)
        matched_objects = indices[matched[positives]]
        labels = torch.cat([instances.labels[matched_objects], torch.full_like(negatives, self.num_classes)])
        return SampledBoxes(boxes[torch.cat([positives, negatives])], labels, matched_objects)

    def losses(
        self, pyramid: Sequence[Tensor], samples: Sequence[SampledBoxes], targets: Sequence[Target]
    ) -> dict[str, Tensor]:
        """Cross-entropy over all samples, and L1 of the deltas of positives for their true class.

        samples: for each image, the result of `sample`. Both losses are divided by the number of all samples.
        """
        logits, deltas = self(pyramid, [of_image.boxes for of_image in samples])
        labels = torch.cat([of_image.labels for of_image in samples])
        boxes = torch.cat([of_image.boxes[: len(of_image.objects)] for of_image in samples])
        objects = torch.cat(
            [
                target.instances.boxes[of_image.objects]  # type: ignore[union-attr]
                for of_image, target in zip(samples, targets, strict=True)
            ]
        )
        # Split by numbers that are known; to look for the positives would be to wait for the device.
        parts = [count for one in samples for count in (len(one.objects), len(one.labels) - len(one.objects))]
        true_labels, found_deltas = (torch.cat(values.split(parts)[::2]) for values in (labels, deltas))
        found_deltas = found_deltas[torch.arange(len(true_labels), device=labels.device), true_labels]
        target_deltas = encode(boxes, objects, self.config.stds)
        count = mean_count(len(labels), logits)
        return {
            "loss_cls": F.cross_entropy(logits, labels, reduction="sum") / count,
            "loss_box": F.l1_loss(found_deltas, target_deltas, reduction="sum") / count,
        }

    @torch.no_grad()
    def detect(self, pyramid: Sequence[Tensor], proposals: Sequence[Tensor], sizes: Sequence[Size]) -> list[Instances]:
        """Boxes, labels and scores for each image, by decreasing score, boxes in pixels of the network input.

        sizes: (height, width) of the images without padding. A box that lies beside its image is clipped to an empty
        one.
        """
        logits, deltas = self(pyramid, proposals)
        counts = [len(boxes) for boxes in proposals]
        parts = zip(proposals, logits.split(counts), deltas.split(counts), sizes, strict=True)
        return [self._detect(*part) for part in parts]

    def detect_in_one(self, pyramid: Sequence[Tensor], proposals: Tensor, size: Size | Tensor) -> Instances:
        """`detect` for a single image. size: (height, width), also as a tensor [2]."""
        logits, deltas = self(pyramid, [proposals])
        return self._detect(proposals, logits, deltas, size)

    def _detect(self, proposals: Tensor, logits: Tensor, deltas: Tensor, size: Size | Tensor) -> Instances:
        scores = logits.softmax(dim=1)[:, :-1]
        rows, labels = torch.nonzero(scores > self.config.min_score, as_tuple=True)
        boxes = decode(proposals[rows], deltas[rows, labels], self.config.stds, size)
        values = scores[rows, labels]
        sides = boxes[:, 2:] - boxes[:, :2]
        valid = (sides >= self.config.smallest).all(dim=1)  # not so for NaN, from weights that have diverged
        boxes, labels, values = boxes[valid], labels[valid], values[valid]
        groups = torch.zeros_like(labels) if self.config.class_agnostic_nms else labels
        kept = batched_nms(boxes, values, groups, self.config.nms_iou)[: self.config.detections]
        return Instances(boxes=boxes[kept], labels=labels[kept], scores=values[kept])
