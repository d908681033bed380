"""The region proposal network. Ren et al., "Faster R-CNN", NeurIPS 2015; on a pyramid as in Lin et al., CVPR 2017."""

from collections.abc import Sequence
from typing import Annotated, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import Field, PositiveInt
from torch import Tensor, nn
from torchvision.ops import batched_nms

from config import Schema
from models.detection.boxes import AnchorConfig, anchors_of_level, decode, encode
from models.detection.matching import IGNORED, assign, mean_count, objects_and_crowds, sample
from structures import Batch, Size, Target

Share = Annotated[float, Field(ge=0, le=1)]
STRIDES = (4, 8, 16, 32, 64)
STDS = (1.0, 1.0, 1.0, 1.0)


class RPNConfig(Schema):
    """Defaults: mmdetection's 1x recipe.

    positive_iou, negative_iou, best_match_iou, crowd_share: see `matching.assign`. samples, positive_share: anchors an
    image that the losses see. before_nms_train, before_nms_test: best anchors of each level that become boxes.
    nms_iou: of two boxes of a level that overlap more, the lower one goes. proposals: boxes an image that remain.
    """

    anchors: AnchorConfig = AnchorConfig()
    positive_iou: Share = 0.7
    negative_iou: Share = 0.3
    best_match_iou: Share | None = 0.3
    crowd_share: Share | None = 0.5
    samples: PositiveInt = 256
    positive_share: Share = 0.5
    before_nms_train: PositiveInt = 2000
    before_nms_test: PositiveInt = 1000
    nms_iou: Share = 0.7
    proposals: PositiveInt = 1000


class RPNOutputs(NamedTuple):
    """Of every level: objectness logits [B, H * W * A], deltas [B, H * W * A, 4], anchors [H * W * A, 4]."""

    logits: list[Tensor]
    deltas: list[Tensor]
    anchors: list[Tensor]


class RPN(nn.Module):
    """One small network for all levels P2..P6."""

    def __init__(self, channels: int, config: RPNConfig) -> None:
        super().__init__()
        self.config = config
        number = len(config.anchors.ratios)
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.objectness = nn.Conv2d(channels, number, 1)
        self.deltas = nn.Conv2d(channels, 4 * number, 1)
        for layer in (self.conv, self.objectness, self.deltas):
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def forward(self, pyramid: Sequence[Tensor]) -> RPNOutputs:
        """P2..P6 [B, C, H, W] -> logits, deltas and anchors, in float32."""
        outputs = RPNOutputs([], [], [])
        for level, stride in zip(pyramid, STRIDES, strict=True):
            B, _, H, W = level.shape
            hidden = F.relu(self.conv(level), inplace=True)
            outputs.logits.append(self.objectness(hidden).float().permute(0, 2, 3, 1).reshape(B, -1))
            outputs.deltas.append(self.deltas(hidden).float().permute(0, 2, 3, 1).reshape(B, -1, 4))
            outputs.anchors.append(anchors_of_level(self.config.anchors, (H, W), stride, level.device))
        return outputs

    @torch.no_grad()
    def propose(self, outputs: RPNOutputs, sizes: Sequence[Size]) -> list[Tensor]:
        """The best boxes [N, 4] of each image of (height, width) `sizes`, in falling order of objectness."""
        return [self._propose(outputs, image, size) for image, size in enumerate(sizes)]

    def _propose(self, outputs: RPNOutputs, image: int, size: Size) -> Tensor:
        limit = self.config.before_nms_train if self.training else self.config.before_nms_test
        all_boxes, all_scores, all_levels = [], [], []
        for level, (logits, deltas, anchors) in enumerate(zip(*outputs, strict=True)):
            scores, indices = logits[image].topk(min(limit, len(anchors)))
            boxes = decode(anchors[indices], deltas[image, indices], STDS, size)
            kept = (boxes[:, 2:] > boxes[:, :2]).all(dim=1)
            all_boxes.append(boxes[kept])
            all_scores.append(scores[kept])
            all_levels.append(torch.full_like(all_scores[-1], level))
        boxes, scores, levels = torch.cat(all_boxes), torch.cat(all_scores), torch.cat(all_levels)
        kept = batched_nms(boxes, scores, levels, self.config.nms_iou)
        return boxes[kept[: self.config.proposals]]

    def losses(self, outputs: RPNOutputs, batch: Batch, divisor: int) -> dict[str, Tensor]:
        """Cross-entropy of objectness and L1 of deltas over sampled anchors; both are divided by their number.

        divisor: anchors whose cell lies outside the image's own size, rounded up to this, do not count.
        """
        anchors = torch.cat(outputs.anchors)
        logits, deltas = torch.cat(outputs.logits, dim=1), torch.cat(outputs.deltas, dim=1)
        count, cross_entropies, distances = 0, [], []
        for image, (size, target) in enumerate(zip(batch.sizes, batch.targets, strict=True)):
            matched, objects = self._matched(anchors, size, target, divisor)
            positives, negatives = sample(matched, self.config.samples, self.config.positive_share, target.seed)
            chosen = torch.cat([positives, negatives])
            is_object = (torch.arange(len(chosen), device=chosen.device) < len(positives)).float()
            wanted = encode(anchors[positives], objects[matched[positives]], STDS)
            cross_entropies.append(
                F.binary_cross_entropy_with_logits(logits[image, chosen], is_object, reduction="sum")
            )
            distances.append(F.l1_loss(deltas[image, positives], wanted, reduction="sum"))
            count += len(chosen)
        number = mean_count(count, logits)
        return {
            "loss_rpn_cls": torch.stack(cross_entropies).sum() / number,
            "loss_rpn_box": torch.stack(distances).sum() / number,
        }

    @torch.no_grad()
    def _matched(self, anchors: Tensor, size: Size, target: Target, divisor: int) -> tuple[Tensor, Tensor]:
        """The assignment of anchors to objects, and the boxes of these."""
        assert target.instances is not None
        indices, crowds = objects_and_crowds(target)
        objects, config = target.instances.boxes[indices], self.config
        matched = assign(
            anchors,
            objects,
            crowds,
            positive=config.positive_iou,
            negative=config.negative_iou,
            best_match=config.best_match_iou,
            crowd_share=config.crowd_share,
        )
        height, width = (-(-side // divisor) * divisor for side in size)
        centres = (anchors[:, :2] + anchors[:, 2:]) / 2
        outside = (centres[:, 0] >= width) | (centres[:, 1] >= height)
        return matched.masked_fill(outside, IGNORED), objects
