"""Panoptic pictures show what they claim."""

import numpy as np
import pytest
import torch

from pictures import draw
from pictures.canvas import BLACK, GREY, WHITE, blend, label_size, palette
from pictures.panoptic import panoptic_panels
from structures import DatasetInfo, Panoptic, Prediction, Target

INFO = DatasetInfo("panoptic", "test", ("ant", "bee", "sky", "deep sea"), (True, True, False, False))
ANT, BEE, SKY, SEA = range(4)
SIZE = 60, 80
SCALE = 8  # of the panels of so small an image
IMAGE = np.full((*SIZE, 3), 100, np.uint8)
ERRORS = "errors: class red, object orange"

Segment = tuple[int, tuple[int, int, int, int]]  # label; x1, y1, x2, y2


def panoptic(*segments: Segment, crowd: tuple[int, ...] = ()) -> Panoptic:
    """Rectangles, later ones over earlier ones, with ids from 1; the rest is void."""
    ids = torch.zeros(SIZE, dtype=torch.int32)
    for number, (_, (x1, y1, x2, y2)) in enumerate(segments, start=1):
        ids[y1:y2, x1:x2] = number
    labels = {number: label for number, (label, _) in enumerate(segments, start=1)}
    return Panoptic(ids, labels, {number: number in crowd for number in labels})


def pixel(picture: np.ndarray, x: int, y: int) -> tuple[int, ...]:
    """The colour in the middle of a pixel of the image."""
    return tuple(picture[y * SCALE + SCALE // 2, x * SCALE + SCALE // 2].tolist())


def colour_of(label: int) -> tuple[int, ...]:
    """What a class's own colour looks like over the image."""
    return tuple(blend(IMAGE, palette(4)[label])[0, 0].tolist())


def share(picture: np.ndarray, colour: tuple[int, ...]) -> float:
    return float((picture == colour).all(axis=-1).mean())


LEFT, RIGHT, ALL = (0, 0, 40, 60), (40, 0, 80, 60), (0, 0, 80, 60)


def test_segments_have_the_colour_of_their_class_and_a_white_edge() -> None:
    panels, legend = panoptic_panels(IMAGE, None, panoptic((SKY, LEFT), (ANT, RIGHT)), INFO)
    assert list(panels) == ["prediction"]
    picture = panels["prediction"]
    assert picture.shape == (60 * SCALE, 80 * SCALE, 3)
    assert pixel(picture, 3, 50) == colour_of(SKY)
    assert pixel(picture, 77, 3) == colour_of(ANT)
    assert (picture[:, 40 * SCALE - 1] == WHITE).all()
    assert share(picture, WHITE) < 0.01
    assert legend == {INFO.classes[label]: tuple(palette(4)[label].tolist()) for label in (ANT, SKY)}


def test_objects_of_a_class_have_shades_and_stuff_has_none() -> None:
    halves = (LEFT, RIGHT)
    things, stuff = (
        panoptic_panels(IMAGE, None, panoptic(*((label, half) for half in halves)), INFO)[0]["prediction"]
        for label in (ANT, SKY)
    )
    assert pixel(things, 3, 3) != pixel(things, 77, 3)
    assert pixel(stuff, 3, 3) == pixel(stuff, 77, 3) == colour_of(SKY)


def test_an_object_found_again_has_its_shade_whatever_its_size() -> None:
    true = panoptic((ANT, (0, 0, 45, 60)), (ANT, (45, 0, 80, 60)))
    found = panoptic((ANT, (38, 0, 80, 60)), (ANT, (0, 0, 38, 60)))
    panels, _ = panoptic_panels(IMAGE, true, found, INFO)
    for x in (3, 77):
        assert pixel(panels["truth"], x, 3) == pixel(panels["prediction"], x, 3)


def test_an_object_of_no_true_one_has_a_shade_of_its_own() -> None:
    true = panoptic((ANT, LEFT), (SKY, RIGHT))
    panels, _ = panoptic_panels(IMAGE, true, panoptic((ANT, RIGHT), (ANT, LEFT)), INFO)
    assert pixel(panels["prediction"], 3, 3) == pixel(panels["truth"], 3, 3)
    assert pixel(panels["prediction"], 77, 3) != pixel(panels["truth"], 3, 3)


def test_void_is_hatched_in_black_and_crowd_in_grey() -> None:
    true = panoptic((ANT, LEFT), crowd=(1,))
    panels, legend = panoptic_panels(IMAGE, true, panoptic((SEA, ALL)), INFO)
    picture = panels["truth"][:, : 40 * SCALE - 1]
    assert 0.4 < share(picture, GREY) < 0.7  # and under the label
    assert share(picture, colour_of(ANT)) > 0.4
    void = panels["truth"][:, 40 * SCALE :]
    black = tuple(blend(IMAGE, np.array(BLACK))[0, 0].tolist())
    assert share(void, black) == pytest.approx(0.5, abs=0.01)
    assert share(void, black) + share(void, (100, 100, 100)) == 1
    assert list(legend) == ["ant", "deep sea", "void"]
    assert legend["void"] == BLACK


def test_without_void_the_legend_has_none() -> None:
    _, legend = panoptic_panels(IMAGE, panoptic((SEA, ALL)), panoptic((SEA, ALL)), INFO)
    assert list(legend) == ["deep sea"]


# --- names -----------------------------------------------------------------------------------------------------------


def test_a_name_stands_in_the_middle_of_its_segment() -> None:
    picture = panoptic_panels(IMAGE, None, panoptic((SKY, LEFT), (BEE, RIGHT)), INFO)[0]["prediction"]
    for label, middle in ((SKY, 20), (BEE, 60)):
        rows, columns = np.nonzero((picture == palette(4)[label]).all(axis=2))
        width, height = label_size(INFO.classes[label], 0.4)
        assert columns.max() - columns.min() < width
        assert rows.max() - rows.min() < height
        assert (columns.min() + columns.max()) / 2 == pytest.approx(middle * SCALE, abs=SCALE)


def test_a_name_in_a_narrow_part_moves_to_a_wide_one() -> None:
    found = panoptic((SKY, ALL), (ANT, (0, 0, 3, 60)), (ANT, (60, 40, 75, 55)))
    found.ids[found.ids == 3] = 2
    picture = panoptic_panels(IMAGE, None, found, INFO)[0]["prediction"]
    columns = np.nonzero((picture == palette(4)[ANT]).all(axis=2))[1]
    assert columns.min() > 60 * SCALE
    assert columns.max() < 75 * SCALE


def test_a_name_prefers_where_it_fits_to_where_there_is_room() -> None:
    found = panoptic((SKY, ALL), (SEA, (10, 10, 15, 30)), (SEA, (30, 40, 50, 42)))
    found.ids[found.ids == 3] = 2
    picture = panoptic_panels(IMAGE, None, found, INFO)[0]["prediction"]
    rows = np.nonzero((picture == palette(4)[SEA]).all(axis=2))[0]
    assert 40 * SCALE <= rows.min() < rows.max() < 42 * SCALE


def test_small_segments_have_no_name() -> None:
    picture = panoptic_panels(IMAGE, None, panoptic((SKY, ALL), (ANT, (5, 5, 6, 6))), INFO)[0]["prediction"]
    assert share(picture, tuple(palette(4)[SKY].tolist())) > 0
    assert share(picture, tuple(palette(4)[ANT].tolist())) == 0


def test_names_do_not_hide_each_other() -> None:
    ant, bee = (ANT, (10, 10, 12, 12)), (BEE, (12, 10, 15, 12))  # no larger than their names
    both, *alone = (
        panoptic_panels(IMAGE, None, panoptic(*found), INFO)[0]["prediction"] for found in ((ant, bee), (ant,), (bee,))
    )
    for label, picture in zip((ANT, BEE), alone, strict=True):
        colour = tuple(palette(4)[label].tolist())
        assert share(both, colour) == share(picture, colour) > 0


def test_a_name_avoids_what_lies_in_its_segment() -> None:
    found = panoptic((ANT, ALL), (BEE, (37, 20, 43, 40)))
    picture = panoptic_panels(IMAGE, None, found, INFO)[0]["prediction"]
    hole = picture[20 * SCALE : 40 * SCALE, 37 * SCALE : 43 * SCALE]
    assert share(hole, tuple(palette(4)[ANT].tolist())) == 0
    assert share(picture, tuple(palette(4)[ANT].tolist())) > 0


# --- errors ----------------------------------------------------------------------------------------------------------


def is_red(colour: tuple[int, ...]) -> bool:
    return colour[0] > 180 and colour[1] < 70 and colour[2] < 70


def is_orange(colour: tuple[int, ...]) -> bool:
    return colour[0] > 180 and 120 < colour[1] < 170 and colour[2] < 70


def test_errors_of_class_are_red_those_of_object_orange_and_void_black() -> None:
    true = panoptic((ANT, (0, 0, 40, 30)), (ANT, (0, 30, 40, 60)), (SKY, (40, 0, 70, 60)))
    # One ant for two, the upper half of the sky as sea and a gap in it; nothing is known of the right edge.
    found = panoptic((ANT, (0, 0, 40, 60)), (SEA, (40, 0, 80, 30)), (SKY, (40, 30, 80, 55)))
    picture = panoptic_panels(IMAGE, true, found, INFO)[0][ERRORS]
    assert pixel(picture, 20, 15) == (100, 100, 100)
    assert is_orange(pixel(picture, 20, 45))
    assert is_red(pixel(picture, 55, 15))
    assert pixel(picture, 55, 45) == (100, 100, 100)
    assert is_red(pixel(picture, 55, 57))
    assert [pixel(picture, 75, y) for y in (15, 45, 57)] == [BLACK] * 3


def test_the_larger_part_of_a_split_object_is_right() -> None:
    true = panoptic((BEE, ALL))
    found = panoptic((BEE, (0, 0, 30, 60)), (BEE, (30, 0, 80, 60)))
    picture = panoptic_panels(IMAGE, true, found, INFO)[0][ERRORS]
    assert is_orange(pixel(picture, 15, 30))
    assert pixel(picture, 55, 30) == (100, 100, 100)


def test_crowd_and_stuff_have_no_wrong_objects() -> None:
    crowd = panoptic((ANT, ALL), crowd=(1,))
    stuff = panoptic((SKY, ALL))
    for true, label in ((crowd, ANT), (stuff, SKY)):
        found = panoptic((label, LEFT), (label, RIGHT))
        assert share(panoptic_panels(IMAGE, true, found, INFO)[0][ERRORS], (100, 100, 100)) == 1


def test_a_perfect_prediction_looks_like_the_truth() -> None:
    true = panoptic((SKY, LEFT), (ANT, (10, 10, 30, 50)), (ANT, (50, 0, 70, 50)))
    renamed = Panoptic(true.ids * 7, {7 * segment: label for segment, label in true.labels.items()})
    panels, _ = panoptic_panels(IMAGE, true, renamed, INFO)
    assert np.array_equal(panels["truth"], panels["prediction"])
    assert share(panels[ERRORS], (100, 100, 100)) + share(panels[ERRORS], BLACK) == 1


# --- the whole picture -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(1, 1), (60, 80), (7, 900), (700, 500)])
def test_maps_of_any_size_make_a_picture(size: tuple[int, int]) -> None:
    image = np.zeros((*size, 3), np.uint8)
    ids = torch.arange(size[0] * size[1], dtype=torch.int32).reshape(size) // (size[0] * size[1] // 3 + 1)
    found = Panoptic(ids, {1: ANT, 2: SKY, 9: BEE})  # 9 has no pixel
    nothing = Panoptic(torch.zeros(size, dtype=torch.int32), {})
    alone = draw(image, Prediction(panoptic=found), None, INFO)
    for true, guess in ((found, nothing), (nothing, found), (nothing, nothing)):
        both = draw(image, Prediction(panoptic=guess), Target("a", size, panoptic=true), INFO)
        assert both.dtype == np.uint8
        assert both.shape[1] > 1.9 * alone.shape[1]


def test_small_images_are_enlarged_for_the_names() -> None:
    alone = draw(IMAGE, Prediction(panoptic=panoptic((SKY, ALL))), None, INFO)
    assert alone.shape[0] > 480
    assert alone.shape[1] == 2 * 80 * SCALE + 4
