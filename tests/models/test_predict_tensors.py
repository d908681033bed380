"""`predict_tensors`, which is exported, finds what `predict` finds."""

import numpy as np
import pytest
import torch

from experiment import load_experiment
from models.maskformer.partition import PartitionConfig, partition
from models.panoptic_fpn.fusion import FusionConfig, fuse, fuse_tensors
from models.rcnn.mask_head import paste_masks, pasted_masks
from structures import Batch, Prediction, Target
from tests.conftest import ROOT
from workflow.onnx_model import prediction_of

NARROW = ["model.backbone.channels=[8, 16, 40, 64]", "model.backbone.depths=[1, 1, 1, 1]"]
FEW = ["model.rpn.before_nms_test=60", "model.rpn.proposals=30", "model.box_head.min_score=0.03"]
CASES = {
    "seg": ["model.channels=16"],
    "depth": ["model.channels=16", "model.stem_channels=8"],
    "depth without flip": ["model.channels=16", "model.stem_channels=8", "model.flip_test=false"],
    "det": [*FEW, "model.box_head.detections=40"],
    "inst": FEW,
    "pan": [*FEW, "model.fusion.min_stuff_area=1"],
    "maskformer": ["model.channels=32", "model.queries=6"],
}
UNPADDED, SIZE = (90, 121), (71, 140)  # with padding, smaller along one axis and larger along the other


def model_and_batch(case: str):
    """A small random model and one image, smooth so that predictions are not all ties."""
    experiment = load_experiment(ROOT / f"configs/small/{case.split()[0]}.yaml", [*NARROW, *CASES[case]])
    model = experiment.build_model(pretrained=False).eval()
    images = torch.zeros(1, 3, 128, 128)
    noise = torch.randn(1, 3, 9, 9, generator=torch.Generator().manual_seed(1))
    images[:, :, : UNPADDED[0], : UNPADDED[1]] = torch.nn.functional.interpolate(noise, UNPADDED, mode="bicubic")
    return model, Batch(images, [UNPADDED], [Target("1", SIZE)])


def check_equal(found: Prediction, expected: Prediction) -> None:
    """Equal, but for rounding: neighbouring labels at an edge, a bit of a number."""
    if expected.semantic is not None:
        assert found.semantic.dtype == expected.semantic.dtype
        assert found.semantic.shape == expected.semantic.shape
        assert (found.semantic == expected.semantic).float().mean() > 0.999
    if expected.depth is not None:
        torch.testing.assert_close(found.depth, expected.depth, rtol=1e-4, atol=1e-4)
    if expected.panoptic is not None:
        assert found.panoptic.labels == expected.panoptic.labels
        assert found.panoptic.ids.dtype == expected.panoptic.ids.dtype
        assert (found.panoptic.ids == expected.panoptic.ids).float().mean() > 0.999
    if expected.instances is not None:
        assert torch.equal(found.instances.labels, expected.instances.labels)
        torch.testing.assert_close(found.instances.boxes, expected.instances.boxes, rtol=1e-4, atol=1e-3)
        torch.testing.assert_close(found.instances.scores, expected.instances.scores, rtol=1e-4, atol=1e-5)
        assert (found.instances.rles is None) == (expected.instances.rles is None)
        if expected.instances.rles is not None:
            pairs = zip(found.instances.rles, expected.instances.rles, strict=True)
            assert sum(one != other for one, other in pairs) <= 0.1 * len(expected.instances.rles)


@pytest.fixture
def as_in_a_graph(monkeypatch):
    """Let models take the ways of an exported graph, without the minutes that tracing takes."""
    # Not `is_exporting` itself: torch.compile remembers the functions that it finds at its first use.
    return lambda: monkeypatch.setattr(torch.compiler, "_is_exporting_flag", True)


@pytest.mark.parametrize("case", CASES)
def test_it_finds_what_predict_finds(case, as_in_a_graph):
    model, batch = model_and_batch(case)
    with torch.inference_mode():
        expected = model.predict(batch)[0]
        as_in_a_graph()
        tensors = model.predict_tensors(batch.images, torch.tensor(UNPADDED), torch.tensor(SIZE))
    if expected.instances is not None:
        assert len(expected.instances.labels) > 5
    check_equal(prediction_of(tensors), expected)


def test_masks_are_pasted_as_one_at_a_time():
    generator = torch.Generator().manual_seed(0)
    masks = torch.rand(6, 28, 28, generator=generator)
    low = torch.rand(6, 2, generator=generator) * 20
    boxes = torch.cat([low, low + torch.tensor([[0, 0], [3, 30], [20, 9], [50, 40], [2, 2], [0.4, 15]])], dim=1)
    size = (37, 49)
    expected = torch.zeros(6, *size, dtype=torch.bool)
    for mask, (window, part) in zip(expected, paste_masks(masks, boxes, size), strict=True):
        mask[window] = torch.from_numpy(part)
    assert torch.equal(pasted_masks(masks, boxes, size), expected)


@pytest.mark.parametrize("count", [0, 7])
def test_instances_are_fused_as_one_at_a_time(count):
    random = np.random.default_rng(count)
    masks = np.zeros((count, 30, 40), bool)
    for mask in masks:
        top, left = random.integers(0, 20, 2)
        mask[top : top + random.integers(0, 15), left : left + random.integers(0, 25)] = True
    semantic = torch.from_numpy(random.integers(0, 3, (30, 40)))
    semantic[:, 30:] = random.integers(0, 4)
    labels = random.integers(0, 5, count).tolist()
    config = FusionConfig(max_overlap=0.4, min_stuff_area=250)
    instances = ((label, (np.s_[:, :], mask)) for label, mask in zip(labels, masks, strict=True))
    expected = fuse(instances, semantic, [10, 11, 12], config)
    tensors = torch.tensor(labels, dtype=torch.int64), torch.from_numpy(masks), semantic.int()
    ids, segment_labels = fuse_tensors(*tensors, [10, 11, 12], config)
    assert dict(enumerate(segment_labels.tolist(), 1)) == expected.labels
    assert torch.equal(ids, expected.ids)
    assert len(expected.labels) > 1


@pytest.mark.parametrize("min_score", [0.2, 1.0])
def test_masks_are_partitioned_as_one_at_a_time(min_score, as_in_a_graph):
    generator = torch.Generator().manual_seed(3)
    class_logits = 4 * torch.randn(12, 5, generator=generator)
    mask_logits = 3 * torch.randn(12, 6, 7, generator=generator)
    things, sizes = torch.tensor([True, False, True, False]), ((24, 28), (22, 25), (33, 21))
    config = PartitionConfig(min_score=min_score, min_visible=0.1)
    expected_ids, expected_labels = partition(class_logits, mask_logits, *sizes, things, config)
    as_in_a_graph()
    ids, labels = partition(class_logits, mask_logits, *sizes, things, config)
    assert torch.equal(labels, expected_labels)
    assert torch.equal(ids, expected_ids)
    assert bool(len(labels)) == (min_score < 0.9)
