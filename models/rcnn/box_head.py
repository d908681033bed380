"""The second stage: features of every proposal, from them a class and a better box.

Ren et al., NeurIPS 2015; Lin et al., CVPR 2017. Features of regions by RoIAlign; He et al., "Mask R-CNN", ICCV 2017.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from pydantic import NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor, nn

from config import Fraction, Schema
from models.rcnn.boxes import area, assign, batched_nms, decode, encode, objects_and_crowds, sample
from runtime.distributed import mean_count
from structures import Instances, Size, Target

POOLED = 7  # side of a region's features
STRIDES = (4, 8, 16, 32)  # of P2..P5; P6 serves proposals only
FINEST_SIDE = 56  # regions of twice this side and more are looked at on P3, of four times on P4, and so on


class RegionConfig(Schema):
    """aligned: pixel centres at +1/2. sampling_ratio: samples a bin along each side; 0: as many as it has pixels.

    torchvision's own detectors have false and 2.
    """

    aligned: bool = True
    sampling_ratio: NonNegativeInt = 0


def pool_regions(pyramid: Sequence[Tensor], boxes: Sequence[Tensor], size: int, config: RegionConfig) -> Tensor:
    """Features [R, C, size, size] of the boxes [N_i, 4] of every image i, one image after another.

    Each is taken from the one level of P2..P5 [B, C, H, W] that fits the box's area.
    """
    everything = torch.cat(list(boxes))
    image = torch.cat([torch.full_like(some[:, :1], index) for index, some in enumerate(boxes)])
    rois = torch.cat([image, everything], dim=1)
    levels = (area(everything).sqrt() / FINEST_SIDE + 1e-6).log2().floor().clamp(0, len(STRIDES) - 1)
    order = levels.argsort(stable=True)
    counts = torch.bincount(levels.long(), minlength=len(STRIDES)).tolist()
    pooled = [
        roi_align(features, some, size, 1 / stride, config.sampling_ratio, config.aligned)
        for features, some, stride in zip(pyramid, rois[order].split(counts), STRIDES, strict=False)
    ]
    return torch.cat(pooled)[order.argsort()]


def roi_align(features: Tensor, rois: Tensor, size: Size | int, scale: float, sampling: int, aligned: bool) -> Tensor:
    """RoIAlign (He et al., ICCV 2017) of features [B, C, H, W]; rois [N, 5], the image's number first -> [N, C, h, w].

    scale: of features by pixels of the image. sampling: points of a bin along an axis, 0 for as many as it has pixels.
    aligned: pixel centres lie at halves.
    """
    from torchvision.ops import roi_align

    aligned_features: Tensor = roi_align(features, rois, size, scale, sampling, aligned)
    return aligned_features


class BoxHeadConfig(Schema):
    """Defaults: mmdetection's 1x recipe.

    channels: of the two hidden layers. positive_iou: see `boxes.assign`; best_match also turns on its `best_match`,
    at the same IoU: off in Faster R-CNN, on in Mask R-CNN. crowd_share: likewise. samples, positive_share: proposals an
    image that the losses see. stds: scales of the four deltas. min_score, nms_iou, detections: what is reported.
    class_agnostic_nms: boxes of different classes suppress each other too.
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


class Samples(NamedTuple):
    """The boxes of one image that the losses see: boxes [N, 4], positives first; labels [N], K for background.

    objects: [P], for each positive the index of its object in the target.
    """

    boxes: Tensor
    labels: Tensor
    objects: Tensor


class BoxHead(nn.Module):
    """Two hidden layers on the 7 x 7 features of a region, then K + 1 classes (background last) and K boxes."""

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
        """Boxes [N_i, 4] of every image -> class logits [R, K + 1] and deltas [R, K, 4], in float32."""
        x = pool_regions(pyramid, boxes, POOLED, self.regions).flatten(1)
        x = F.relu(self.fc2(F.relu(self.fc1(x), inplace=True)), inplace=True)
        return self.classifier(x).float(), self.deltas(x).float().unflatten(1, (self.num_classes, 4))

    @torch.no_grad()
    def sample(self, proposals: Tensor, target: Target) -> Samples:
        """Some of the proposals [N, 4], and of the objects' own boxes, to learn from."""
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
        positives, negatives = sample(matched, config.samples, config.positive_share, target.seed)
        own = indices[matched[positives]]
        labels = torch.cat([instances.labels[own], torch.full_like(negatives, self.num_classes)])
        return Samples(boxes[torch.cat([positives, negatives])], labels, own)

    def losses(
        self, pyramid: Sequence[Tensor], samples: Sequence[Samples], targets: Sequence[Target]
    ) -> dict[str, Tensor]:
        """Cross-entropy over all samples, and L1 of the deltas of the positives' own class; divided by all samples."""
        logits, deltas = self(pyramid, [some.boxes for some in samples])
        labels = torch.cat([some.labels for some in samples])
        boxes = torch.cat([some.boxes[: len(some.objects)] for some in samples])
        objects = torch.cat(
            [target.instances.boxes[some.objects] for some, target in zip(samples, targets, strict=True)]  # type: ignore[union-attr]
        )
        positives = torch.nonzero(labels < self.num_classes).flatten()
        wanted = encode(boxes, objects, self.config.stds)
        number = mean_count(len(labels), logits)
        return {
            "loss_cls": F.cross_entropy(logits, labels, reduction="sum") / number,
            "loss_box": F.l1_loss(deltas[positives, labels[positives]], wanted, reduction="sum") / number,
        }

    @torch.no_grad()
    def detect(self, pyramid: Sequence[Tensor], proposals: Sequence[Tensor], sizes: Sequence[Size]) -> list[Instances]:
        """Boxes, labels and scores of each image of (height, width) `sizes`, by falling score, in input pixels."""
        logits, deltas = self(pyramid, proposals)
        counts = [len(boxes) for boxes in proposals]
        scores = logits.softmax(dim=1)[:, :-1]
        parts = zip(proposals, scores.split(counts), deltas.split(counts), sizes, strict=True)
        return [self._detect(*part) for part in parts]

    def _detect(self, proposals: Tensor, scores: Tensor, deltas: Tensor, size: Size) -> Instances:
        rows, labels = torch.nonzero(scores > self.config.min_score, as_tuple=True)
        boxes = decode(proposals[rows], deltas[rows, labels], self.config.stds, size)
        values = scores[rows, labels]
        whole = (boxes[:, 2:] > boxes[:, :2]).all(dim=1)
        boxes, labels, values = boxes[whole], labels[whole], values[whole]
        groups = torch.zeros_like(labels) if self.config.class_agnostic_nms else labels
        kept = batched_nms(boxes, values, groups, self.config.nms_iou)[: self.config.detections]
        return Instances(boxes=boxes[kept], labels=labels[kept], scores=values[kept])
