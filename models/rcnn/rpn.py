"""The region proposal network. Ren et al., "Faster R-CNN", NeurIPS 2015; on a pyramid as in Lin et al., CVPR 2017."""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from pydantic import PositiveInt
from torch import Tensor, nn

from config import Fraction, Schema
from models.rcnn.boxes import (
    IGNORED,
    AnchorConfig,
    anchors_of_level,
    assign,
    batched_nms,
    decode,
    encode,
    objects_and_crowds,
    sample_boxes,
)
from runtime.distributed import mean_count
from structures import Batch, Size, Target

STRIDES = (4, 8, 16, 32, 64)
STDS = (1.0, 1.0, 1.0, 1.0)


class RPNConfig(Schema):
    """Defaults: mmdetection's 1x recipe.

    positive_iou, negative_iou, best_match_iou, crowd_share: see `boxes.assign`. samples: maximum number of anchors
    per image that the losses use. positive_share: largest share of positive samples. before_nms_train, before_nms_test:
    number of the best anchors of each level that become boxes. nms_iou: NMS within a level removes boxes that overlap a
    better one by more than this IoU. proposals: maximum number of boxes per image after NMS.
    """

    anchors: AnchorConfig = AnchorConfig()
    positive_iou: Fraction = 0.7
    negative_iou: Fraction = 0.3
    best_match_iou: Fraction | None = 0.3
    crowd_share: Fraction | None = 0.5
    samples: PositiveInt = 256
    positive_share: Fraction = 0.5
    before_nms_train: PositiveInt = 2000
    before_nms_test: PositiveInt = 1000
    nms_iou: Fraction = 0.7
    proposals: PositiveInt = 1000


class RPNOutputs(NamedTuple):
    """For each level: objectness logits [B, H * W * A], deltas [B, H * W * A, 4], anchors [H * W * A, 4]."""

    logits: list[Tensor]
    deltas: list[Tensor]
    anchors: list[Tensor]


class RPN(nn.Module):
    """A small network, shared by all levels P2..P6, that predicts objectness and deltas for every anchor."""

    def __init__(self, channels: int, config: RPNConfig) -> None:
        super().__init__()
        self.config = config
        count = len(config.anchors.ratios)
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.objectness = nn.Conv2d(channels, count, 1)
        self.deltas = nn.Conv2d(channels, 4 * count, 1)
        for layer in (self.conv, self.objectness, self.deltas):
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def forward(self, pyramid: Sequence[Tensor]) -> RPNOutputs:
        """P2..P6 [B, C, H, W] -> logits, deltas and anchors of each level, in float32."""
        outputs = RPNOutputs([], [], self.anchors(pyramid))
        for level in pyramid:
            hidden = F.relu(self.conv(level), inplace=True)
            outputs.logits.append(self.objectness(hidden).float().permute(0, 2, 3, 1).flatten(1))
            outputs.deltas.append(self.deltas(hidden).float().permute(0, 2, 3, 1).reshape(level.shape[0], -1, 4))
        return outputs

    def anchors(self, pyramid: Sequence[Tensor]) -> list[Tensor]:
        """For each level: its anchors [H * W * A, 4]."""
        return [
            anchors_of_level(self.config.anchors, (level.shape[2], level.shape[3]), stride, level.device)
            for level, stride in zip(pyramid, STRIDES, strict=True)
        ]

    def predict_at_anchors(self, pyramid: Sequence[Tensor], images: Tensor, anchors: Tensor) -> tuple[Tensor, Tensor]:
        """Predict for N given anchors only: objectness logits [N] and deltas [N, 4], in float32.

        images: [N], the index of each anchor's image in the batch. anchors: [N], the index of each anchor among the
        anchors of all levels. The result is that of `forward` at these anchors. A loss over few anchors needs no
        gradient of the others, so this computes only from the 3 x 3 features around the cell of each anchor.
        """
        cells, ratios = anchors // self.objectness.out_channels, anchors % self.objectness.out_channels
        starts = [0, *itertools.accumulate(level[0, 0].numel() for level in pyramid)]
        patches = pyramid[0].new_zeros(len(cells), 3, 3, pyramid[0].shape[1])
        levels = torch.stack([cells >= start for start in starts[1:-1]]).sum(dim=0)
        counts = torch.bincount(levels, minlength=len(pyramid)).tolist()  # waits for the device once
        parts = levels.argsort(stable=True).split(counts)
        for level, start, here in zip(pyramid, starts, parts, strict=False):
            patches = patches.index_copy(0, here, _extract_patches(level, images[here], cells[here] - start))
        weight = self.conv.weight.permute(0, 2, 3, 1).flatten(1)
        hidden = F.relu(F.linear(patches.flatten(1), weight, self.conv.bias), inplace=True)
        logits = F.linear(hidden, self.objectness.weight.flatten(1), self.objectness.bias).float()
        deltas = F.linear(hidden, self.deltas.weight.flatten(1), self.deltas.bias).float().unflatten(1, (-1, 4))
        each = torch.arange(len(ratios), device=ratios.device)
        return logits[each, ratios], deltas[each, ratios]

    @torch.no_grad()
    def propose(self, outputs: RPNOutputs, sizes: Sequence[Size]) -> list[Tensor]:
        """For each image, the best boxes [N, 4], by decreasing objectness. sizes: (height, width) of the images."""
        return [self.propose_in(outputs, image, size) for image, size in enumerate(sizes)]

    def propose_in(self, outputs: RPNOutputs, image: int, size: Size | Tensor) -> Tensor:
        """`propose` for the image with this index. size: (height, width), also as a tensor [2]."""
        limit = self.config.before_nms_train if self.training else self.config.before_nms_test
        all_boxes, all_scores, all_levels = [], [], []
        for level, (logits, deltas, anchors) in enumerate(zip(*outputs, strict=True)):
            scores, indices = logits[image].topk(torch.sym_min(limit, anchors.shape[0]))
            all_boxes.append(decode(anchors[indices], deltas[image, indices], STDS, size))
            all_scores.append(scores)
            all_levels.append(torch.full_like(scores, level))
        boxes, scores, levels = torch.cat(all_boxes), torch.cat(all_scores), torch.cat(all_levels)
        inside = torch.nonzero((boxes[:, 2:] > boxes[:, :2]).all(dim=1)).flatten()
        boxes, scores, levels = boxes[inside], scores[inside], levels[inside]
        kept = batched_nms(boxes, scores, levels, self.config.nms_iou)
        return boxes[kept[: self.config.proposals]]

    def losses(self, pyramid: Sequence[Tensor], batch: Batch, divisor: int) -> dict[str, Tensor]:
        """Cross-entropy of objectness and L1 of deltas over sampled anchors, both divided by the number of samples.

        divisor: the size of each image is rounded up to a multiple of it; anchors centred outside are ignored.
        """
        anchors = torch.cat(self.anchors(pyramid))
        images, chosen, is_object, target_deltas = [], [], [], []
        for image, (size, target) in enumerate(zip(batch.sizes, batch.targets, strict=True)):
            matched, objects = self._match_anchors(anchors, size, target, divisor)
            positives, negatives = sample_boxes(matched, self.config.samples, self.config.positive_share, target.seed)
            chosen += [positives, negatives]
            images += [torch.full_like(part, image) for part in (positives, negatives)]
            is_object += [torch.ones_like(positives), torch.zeros_like(negatives)]
            target_deltas.append(encode(anchors[positives], objects[matched[positives]], STDS))
        logits, deltas = self.predict_at_anchors(pyramid, torch.cat(images), torch.cat(chosen))
        truth = torch.cat(is_object).float()
        of_positives = torch.cat(deltas.split([len(part) for part in chosen])[::2])
        count = mean_count(len(truth), logits)
        return {
            "loss_rpn_cls": F.binary_cross_entropy_with_logits(logits, truth, reduction="sum") / count,
            "loss_rpn_box": F.l1_loss(of_positives, torch.cat(target_deltas), reduction="sum") / count,
        }

    @torch.no_grad()
    def _match_anchors(self, anchors: Tensor, size: Size, target: Target, divisor: int) -> tuple[Tensor, Tensor]:
        """Assign anchors [N, 4] to objects. Returns the result of `boxes.assign`, [N], and the objects' boxes."""
        assert target.instances is not None
        indices, crowds = objects_and_crowds(target)
        objects, config = target.instances.boxes[indices], self.config
        height, width = (-(-side // divisor) * divisor for side in size)
        centres = (anchors[:, :2] + anchors[:, 2:]) / 2
        outside = (centres[:, 0] >= width) | (centres[:, 1] >= height)
        matched = assign(
            anchors.masked_fill(outside[:, None], 0),  # empty: so that none of them is the best for an object
            objects,
            crowds,
            positive=config.positive_iou,
            negative=config.negative_iou,
            best_match=config.best_match_iou,
            crowd_share=config.crowd_share,
        )
        return matched.masked_fill(outside, IGNORED), objects


def _extract_patches(level: Tensor, images: Tensor, cells: Tensor) -> Tensor:
    """The 3 x 3 features [N, 3, 3, C] around cells [N] (row * W + column) of `images` [N] of a level [B, C, H, W]."""
    around = torch.arange(3, device=cells.device)
    rows, columns = ((part[:, None] + around) for part in (cells // level.shape[3], cells % level.shape[3]))
    padded = F.pad(level, (1, 1, 1, 1))
    return padded[images[:, None, None], :, rows[:, :, None], columns[:, None, :]]
