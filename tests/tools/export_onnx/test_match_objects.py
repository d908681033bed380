"""Two whole predictions are compared object by object, whatever their order."""

import numpy as np
import pytest

from tools.verify_export.compare import TOLERANCES, compare, describe, worst


def objects(*rows):
    """Rows of (x1, y1, x2, y2, score, label)."""
    table = np.array(rows, np.float32).reshape(-1, 6)
    return {"boxes": table[:, :4], "scores": table[:, 4], "labels": table[:, 5].astype(np.int64)}


A, B, C = (0, 0, 10, 10, 0.9, 1), (50, 50, 70, 80, 0.5, 2), (0, 0, 10.5, 10, 0.4, 2)


def test_objects_in_another_order_are_the_same():
    differences = compare(objects(B, A), objects(A, B))
    assert all(each["absolute"] == each["objects"] == 0 for each in differences.values())
    assert worst(differences, TOLERANCES["fp32"]) is None


def test_an_object_that_one_alone_has_found_is_counted_and_the_others_are_compared():
    nearly = (0, 0, 10, 10.01, 0.9, 1)
    differences = compare(objects(nearly, C), objects(A, B, C))
    assert differences["boxes"]["objects"] == pytest.approx(1 / 3)
    assert differences["boxes"]["absolute"] == pytest.approx(0.01, rel=1e-4)
    assert worst(differences, TOLERANCES["fp16"]) is not None
    assert "33.3 % of the objects found by one alone" in describe("boxes", differences["boxes"])


@pytest.mark.parametrize("other", [(0, 0, 10, 10, 0.9, 2), (0, 0, 10, 12, 0.9, 1)])
def test_another_label_or_a_far_side_is_another_object(other):
    assert compare(objects(other), objects(A))["scores"]["objects"] == 1


def test_nothing_found_by_both_is_no_difference():
    assert worst(compare(objects(), objects()), TOLERANCES["fp32"]) is None
    assert compare(objects(A), objects())["boxes"]["objects"] == 1


def panoptic(ids, labels):
    return {"ids": np.array(ids), "segment_labels": np.array(labels)}


def test_segments_may_have_other_numbers():
    wanted = panoptic([[1, 1, 2, 0]], [7, 8])
    assert compare(panoptic([[2, 2, 1, 0]], [8, 7]), wanted)["ids"]["objects"] == 0


@pytest.mark.parametrize(
    ("ids", "labels", "share"),
    [
        ([[1, 1, 1, 0]], [7], 1 / 4),  # the second is swallowed
        ([[1, 1, 2, 2]], [7, 8], 1 / 4),  # void is filled
        ([[1, 1, 2, 0]], [8, 8], 1 / 2),  # another label
        ([[1, 3, 2, 0]], [7, 8, 7], 1 / 4),  # the first is divided
    ],
)
def test_pixels_in_other_segments_are_counted(ids, labels, share):
    differences = compare(panoptic(ids, labels), panoptic([[1, 1, 2, 0]], [7, 8]))
    assert differences["ids"]["objects"] == share
    assert worst(differences, TOLERANCES["fp16"]) == "ids"


@pytest.mark.parametrize("ids", [[[1.0, 1.0, 2.0, 0.0]], [[-1, -1, -1, -1]], [[9, 9, 9, 9]]])
def test_segments_of_other_runtimes_may_be_floats_or_have_no_label(ids):
    share = compare(panoptic(ids, [7, 8]), panoptic([[1, 1, 2, 0]], [7, 8]))["ids"]["objects"]
    assert share == (0 if ids[0][0] == 1 else 1)


@pytest.mark.parametrize("name", ["boxes", "scores", "labels"])
def test_lists_of_another_shape_differ_beyond_every_tolerance(name):
    wanted = objects(A, B)
    longer = {**wanted, name: np.concatenate([wanted[name], wanted[name][:1]])}
    wider = {**wanted, name: np.stack([wanted[name]] * 2, axis=1)}
    for found in (longer, wider):
        assert compare(found, wanted)[name]["absolute"] == float("inf")
        assert worst(compare(found, wanted), TOLERANCES["fp16"]) == name
