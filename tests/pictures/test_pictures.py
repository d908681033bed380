"""Pictures show what they claim."""

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask

from pictures import class_colours, draw, draw_truth
from pictures.canvas import RED, enlarge, palette
from pictures.instances import GREY, MOST, instance_panels
from pictures.semantic import semantic_panels
from pictures.shrink import LONGEST_PANEL, Shrinker
from structures import IGNORE, DatasetInfo, Instances, Panoptic, Prediction, Target

INFO = DatasetInfo("semantic", "test", ("sky", "tree", "road"))


def maps() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    image = np.full((40, 50, 3), 128, np.uint8)
    truth = rng.integers(0, 3, (40, 50)).astype(np.int16)
    truth[:5] = IGNORE
    prediction = truth.copy()
    prediction[10:20] = (prediction[10:20] + 1) % 3
    return image, truth, prediction


def test_wrong_pixels_are_red_and_unlabelled_ones_black():
    image, truth, prediction = maps()
    prediction[:5] = 0  # where nothing is known, nothing is wrong
    panels, legend = semantic_panels(image, truth, prediction, INFO)
    errors = panels["errors"].astype(int)
    assert (errors[:5] == 0).all()
    assert (errors[10:20, :, 0] - errors[10:20, :, 1] > 50).all()
    assert (errors[20:] == 128).all()
    assert set(legend) == {"sky", "tree", "road"}


def test_colours_of_classes_differ():
    colours = palette(150).astype(int)
    assert len(np.unique(colours, axis=0)) == 150
    assert (np.abs(colours[:15, None] - colours[None, :15]).sum(2) + 1000 * np.eye(15) > 40).all()
    assert (np.abs(colours[:10] - np.array(RED)).sum(1) > 40).all()


def test_picture_has_a_panel_each_and_a_legible_size():
    image, truth, prediction = maps()
    target = Target("a", (40, 50), semantic=torch.from_numpy(truth))
    with_truth = draw(image, Prediction(semantic=torch.from_numpy(prediction)), target, INFO)
    alone = draw(image, Prediction(semantic=torch.from_numpy(prediction)), None, INFO)
    assert with_truth.dtype == np.uint8
    assert with_truth.shape[1] > 1.9 * alone.shape[1]
    assert alone.shape[0] > 240


@pytest.mark.parametrize(
    ("shape", "factor"),
    [((48, 64), 10), ((427, 640), 1), ((240, 320), 2), ((7, 3000), 1), ((1, 500), 8), ((600, 800), 1)],
)
def test_pictures_are_enlarged_within_limits(shape, factor):
    assert enlarge(np.zeros((*shape, 3), np.uint8), 480).shape[:2] == (shape[0] * factor, shape[1] * factor)


# --- objects ---------------------------------------------------------------------------------------------------------

OBJECTS = DatasetInfo("instance", "test", ("ant", "bee", "cow"))
BLANK = np.full((60, 80, 3), 10, np.uint8)
NONE = Instances(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), rles=[], scores=torch.zeros(0))
SCALE = 8  # of the panels of so small an image


def objects(boxes: list[list[float]], labels: list[int], masks: bool = False, **fields: torch.Tensor) -> Instances:
    rles = []
    for x1, y1, x2, y2 in boxes if masks else ():
        mask = np.zeros(BLANK.shape[:2], np.uint8, order="F")
        mask[int(y1) : int(y2), int(x1) : int(x2)] = 1
        rles.append(coco_mask.encode(mask)["counts"])
    return Instances(torch.tensor(boxes), torch.tensor(labels), rles=rles if masks else None, **fields)


def detections(scores: list[float], masks: bool = False) -> Instances:
    boxes = [[10.0 + 25 * number, 20, 30 + 25 * number, 50] for number in range(len(scores))]
    return objects(boxes, list(range(len(scores))), masks, scores=torch.tensor(scores))


def panel(prediction: Instances, truth: Instances | None = None, title: str = "detections") -> np.ndarray:
    panels, _ = instance_panels(BLANK, truth, prediction, OBJECTS)
    return next(picture for name, picture in panels.items() if name.startswith(title))


def pixel(picture: np.ndarray, x: float, y: float) -> list[int]:
    return picture[round(y * SCALE), round(x * SCALE)].tolist()


def test_boxes_have_the_colour_of_their_class_and_masks_lie_within():
    picture = panel(detections([0.9, 0.8], masks=True))
    assert picture.shape == (60 * SCALE, 80 * SCALE, 3)
    for number in range(2):
        colour = palette(3)[number]
        assert pixel(picture, 10 + 25 * number, 40) == colour.tolist()
        assert pixel(picture, 20 + 25 * number, 40) == ((BLANK[0, 0] + colour.astype(float)) / 2).astype(int).tolist()
        assert pixel(picture, 20 + 25 * number, 55) == [10, 10, 10]
    assert pixel(panel(detections([0.9])), 20, 40) == [10, 10, 10]  # without masks only the outline


def test_masks_of_one_class_have_different_shades():
    twins = objects([[5.0, 5, 25, 50], [40, 5, 75, 50]], [1, 1], masks=True, scores=torch.ones(2))
    assert pixel(panel(twins), 15, 30) != pixel(panel(twins), 55, 30)


def test_unlikely_detections_are_not_drawn():
    panels, legend = instance_panels(BLANK, None, detections([0.49, 0.51]), OBJECTS)
    assert list(panels) == ["detections, score >= 0.5"]
    assert list(legend) == ["bee"]
    assert pixel(panels["detections, score >= 0.5"], 10, 40) == [10, 10, 10]


def test_title_tells_how_many_are_left_out():
    many = objects([[1.0, 1, 9, 9]] * (MOST + 5), [0] * (MOST + 5), scores=torch.linspace(0.5, 0.9, MOST + 5))
    panels, _ = instance_panels(BLANK, many, many, OBJECTS)
    assert list(panels) == [
        f"true objects ({MOST} largest of {MOST + 5})",
        f"detections, score >= 0.5 ({MOST} best of {MOST + 5})",
    ]


@pytest.mark.parametrize("masks", [False, True])
def test_crowds_are_hatched_in_grey(masks):
    truth = objects([[10.0, 10, 70, 50]], [0], masks, crowd=torch.tensor([True]))
    panels, legend = instance_panels(BLANK, truth, NONE, OBJECTS)
    inside = panels["true objects"][30 * SCALE : 48 * SCALE, 15 * SCALE : 65 * SCALE]
    values = {tuple(value) for value in np.unique(inside.reshape(-1, 3), axis=0).tolist()}
    assert values == {(10, 10, 10), GREY}
    assert legend == {}


def test_labels_do_not_hide_each_other():
    alone = panel(objects([[20.0, 30, 60, 55]], [0], scores=torch.tensor([0.9])))
    both = panel(objects([[20.0, 30, 60, 55]] * 2, [0, 1], scores=torch.tensor([0.9, 0.8])))
    label = (slice(26 * SCALE, 30 * SCALE - 4), slice(20 * SCALE + 4, 24 * SCALE))
    assert (alone[label] != 10).any()
    assert np.array_equal(alone[label], both[label])
    assert (both == palette(3)[1]).all(2).sum() > 300


@pytest.mark.parametrize("size", [(60, 80), (700, 500)])
def test_objects_without_truth_or_detections_make_a_picture(size):
    image = np.zeros((*size, 3), np.uint8)
    alone = draw(image, Prediction(instances=NONE), None, OBJECTS)
    truth = Target("a", size, instances=objects([[0.0, 0, 40, 30]], [2], crowd=torch.tensor([False])))
    both = draw(image, Prediction(instances=NONE), truth, OBJECTS)
    assert alone.shape[0] >= 480
    assert both.shape[1] > 1.4 * alone.shape[1]


def test_detections_of_a_diverged_model_are_drawn_without_failing():
    wild = objects([[float("nan"), -50, float("inf"), 1e30]] * 2, [0, 1], scores=torch.tensor([0.9, float("nan")]))
    draw(BLANK, Prediction(instances=wild), None, OBJECTS)


# --- the truth alone -------------------------------------------------------------------------------------------------


def test_true_classes_are_drawn_over_the_image_and_unlabelled_pixels_stay():
    image, truth, _ = maps()
    picture = draw_truth(image, Target("a", (40, 50), semantic=torch.from_numpy(truth)), INFO)
    factor = picture.shape[0] // 40
    small = picture[::factor, ::factor]
    assert (small[:5] == 128).all()
    for label, name in enumerate(INFO.classes):
        colour = np.array(class_colours(INFO)[name])
        assert np.abs(np.median(small[truth == label], axis=0) - (0.4 * 128 + 0.6 * colour)).max() < 1


def test_classes_are_outlined_and_named():
    labels = torch.zeros(40, 50, dtype=torch.int16)
    labels[:, 25:], labels[:2] = 2, IGNORE
    picture = draw_truth(np.full((40, 50, 3), 128, np.uint8), Target("a", (40, 50), semantic=labels), INFO)
    factor = picture.shape[0] // 40
    assert (picture[2 * factor :, 25 * factor - 1] == 255).all()
    for name, side in (("sky", picture[:, : 25 * factor]), ("road", picture[:, 25 * factor :])):
        background = (side == np.array(class_colours(INFO)[name])).all(axis=2)
        assert background.sum() > 100, name
    assert not (picture == np.array(class_colours(INFO)["tree"])).all(axis=2).any()


def test_true_objects_are_drawn_over_true_classes():
    image = np.full((40, 50, 3), 128, np.uint8)
    semantic = torch.zeros((40, 50), dtype=torch.int16)
    objects = Instances(torch.tensor([[5.0, 5.0, 30.0, 20.0]]), torch.tensor([2]), crowd=torch.tensor([False]))
    with_objects = draw_truth(image, Target("a", (40, 50), semantic=semantic, instances=objects), INFO)
    alone = draw_truth(image, Target("a", (40, 50), instances=objects), INFO)
    red = (with_objects == np.array(class_colours(INFO)["road"])).all(axis=2)
    assert red.sum() > 500
    assert (with_objects[-1, -1] != alone[-1, -1]).any()


def test_true_depth_is_black_where_nothing_was_measured():
    depth = torch.linspace(1, 5, 40 * 50).reshape(40, 50)
    depth[:4] = 0
    target = Target("a", (40, 50), depth=depth)
    picture = draw_truth(np.zeros((40, 50, 3), np.uint8), target, DatasetInfo("depth", "test", max_depth=10))
    factor = picture.shape[0] // 40
    assert (picture[: 4 * factor] == 0).all()
    assert (picture[4 * factor :].max(axis=2) > 0).all()
    nothing = draw_truth(np.zeros((4, 5, 3), np.uint8), Target("a", (4, 5), depth=torch.zeros(4, 5)), INFO)
    assert (nothing == 0).all()


# --- large photos ----------------------------------------------------------------------------------------------------


def test_panels_of_a_large_photo_are_made_smaller():
    photo = np.zeros((2000, 3200, 3), np.uint8)
    semantic = torch.zeros(2000, 3200, dtype=torch.int16)
    semantic[:, 1600:] = 2
    picture = draw(photo, Prediction(semantic=semantic), None, INFO)
    assert picture.shape[1] == 2 * LONGEST_PANEL + 4
    sky, road = picture[500, LONGEST_PANEL + 4 + 700].astype(int), picture[500, LONGEST_PANEL + 4 + 900].astype(int)
    assert sky.argmax() == np.argmax(class_colours(INFO)["sky"])
    assert road.argmax() == np.argmax(class_colours(INFO)["road"])
    target = Target("a", (2000, 3200), semantic=semantic)
    assert max(draw_truth(photo, target, INFO).shape) == LONGEST_PANEL


def test_what_is_made_smaller_stays_at_its_place():
    """A square at the same place in every kind of prediction, 2.5 times as small."""
    size, square = (4000, 2000), np.s_[1000:2000, 500:1500]
    mask = np.zeros(size, np.uint8)
    mask[square] = 1
    objects = Instances(
        boxes=torch.tensor([[500.0, 1000.0, 1500.0, 2000.0]]),
        labels=torch.tensor([1]),
        masks=torch.from_numpy(mask).bool()[None],
        rles=[coco_mask.encode(np.asfortranarray(mask))["counts"]],
        scores=torch.tensor([0.9]),
    )
    whole = torch.from_numpy(mask)
    prediction = Prediction(whole.short(), objects, Panoptic(whole.int(), {1: 0}), whole.float())
    shrinker = Shrinker(size)
    small = shrinker.labels(prediction)
    expected = np.zeros((1600, 800), np.uint8)
    expected[400:800, 200:600] = 1
    rle = coco_mask.decode({"size": [1600, 800], "counts": small.instances.rles[0]})
    for found in (small.semantic, small.depth, small.panoptic.ids, small.instances.masks[0], torch.from_numpy(rle)):
        assert np.array_equal(found.numpy(), expected)
    assert small.semantic.dtype == torch.int16
    assert small.instances.boxes.tolist() == [[200, 400, 600, 800]]
    assert np.array_equal(shrinker.image(np.repeat(mask[..., None], 3, 2))[..., 0], expected)
    assert prediction.semantic.shape == size  # what was predicted keeps its size


def test_pictures_that_are_small_enough_are_not_touched():
    prediction = Prediction(semantic=torch.zeros(40, 50))
    assert Shrinker((40, 50)).labels(prediction) is prediction
