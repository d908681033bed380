"""Assignment against its definition in plain loops, and the limits of sampling."""

import pytest
import torch
from torchvision.ops import box_iou

from models.rcnn.boxes import IGNORED, NEGATIVE, assign, sample_boxes
from runtime.distributed import mean_count

NONE = torch.zeros(0, 4)


def slow_assign(boxes, objects, positive, negative, best_match):
    """The published rule, box by box."""
    iou = box_iou(objects, boxes).tolist()
    matched = []
    for column in range(len(boxes)):
        values = [row[column] for row in iou]
        best = max(values)
        matched.append(values.index(best) if best >= positive else NEGATIVE if best < negative else IGNORED)
    if best_match is not None:
        for number, row in enumerate(iou):
            if max(row) >= best_match:
                for column, value in enumerate(row):
                    if value == max(row):
                        matched[column] = number
    return matched


@pytest.mark.parametrize("thresholds", [(0.7, 0.3, 0.3), (0.5, 0.5, 0.5), (0.5, 0.5, None)])
def test_assignment_follows_its_definition(thresholds):
    generator = torch.Generator().manual_seed(0)
    for _ in range(50):
        low = torch.randint(0, 12, (40, 2), generator=generator).float()
        boxes = torch.cat([low, low + torch.randint(1, 12, (40, 2), generator=generator)], dim=1)
        objects, others = boxes[:4] + torch.randint(0, 3, (4, 4), generator=generator).float(), boxes[4:]
        positive, negative, best_match = thresholds
        found = assign(
            others, objects, NONE, positive=positive, negative=negative, best_match=best_match, crowd_share=None
        )
        assert found.tolist() == slow_assign(others, objects, *thresholds)


def test_many_objects_are_compared_in_parts_with_the_same_result():
    generator = torch.Generator().manual_seed(0)
    low = torch.randint(0, 12, (130, 2), generator=generator).float()
    boxes = torch.cat([low, low + torch.randint(1, 12, (130, 2), generator=generator)], dim=1)
    objects, others = boxes[:100].repeat_interleave(2, dim=0)[:100], boxes[50:]  # half of them are duplicates
    found = assign(others, objects, NONE, positive=0.7, negative=0.3, best_match=0.3, crowd_share=None)
    assert found.tolist() == slow_assign(others, objects, 0.7, 0.3, 0.3)


def test_without_boxes_nothing_is_assigned():
    found = assign(NONE, torch.ones(2, 4), NONE, positive=0.5, negative=0.5, best_match=0.5, crowd_share=0.5)
    assert found.tolist() == []


def rule(boxes, objects, crowds, crowd_share):
    return assign(boxes, objects, crowds, positive=0.5, negative=0.5, best_match=None, crowd_share=crowd_share).tolist()


def test_boxes_in_a_crowd_are_not_background_but_may_be_objects():
    boxes = torch.tensor([[0.0, 0, 10, 10], [6, 0, 16, 10], [50, 50, 60, 60], [2, 0, 10, 10]])
    objects, crowds = torch.tensor([[0.0, 0, 10, 8]]), torch.tensor([[0.0, 0, 11, 11]])
    assert rule(boxes, objects, crowds, 0.5) == [0, IGNORED, NEGATIVE, 0]
    assert rule(boxes, objects, crowds, None) == [0, NEGATIVE, NEGATIVE, 0]
    assert rule(boxes, NONE, crowds, 0.5) == [IGNORED, IGNORED, NEGATIVE, IGNORED]


def test_without_objects_all_is_background():
    assert rule(torch.rand(3, 4), NONE, NONE, 0.5) == [NEGATIVE] * 3


def test_samples_are_limited_and_follow_the_seed_alone():
    matched = torch.tensor([0] * 300 + [NEGATIVE] * 1000 + [IGNORED] * 50)
    torch.manual_seed(0)
    positives, negatives = sample_boxes(matched, 256, 0.5, seed=7)
    assert (len(positives), len(negatives)) == (128, 128)
    assert (matched[positives] >= 0).all()
    assert (matched[negatives] == NEGATIVE).all()
    assert len(set(positives.tolist())) == 128
    torch.manual_seed(1)
    assert all(
        torch.equal(a, b) for a, b in zip(sample_boxes(matched, 256, 0.5, seed=7), (positives, negatives), strict=True)
    )
    assert not torch.equal(sample_boxes(matched, 256, 0.5, seed=8)[0], positives)


def test_negatives_fill_up_for_missing_positives():
    matched = torch.tensor([3] * 5 + [NEGATIVE] * 400)
    assert [len(part) for part in sample_boxes(matched, 256, 0.5, seed=0)] == [5, 251]


def test_a_count_of_none_divides_by_one():
    assert [float(mean_count(count, torch.zeros(1))) for count in (0, 1, 12)] == [1, 1, 12]
