"""The renderer against geometry worked out by hand, and the random rooms as a whole."""

from dataclasses import replace
from functools import cache

import cv2
import numpy as np
import pytest

from datasets.scenes.camera import make_camera
from datasets.scenes.classes import CLASSES, SCENE_CLASSES, THING_CLASSES, label_of
from datasets.scenes.labels import segments
from datasets.scenes.materials import Material, hsv
from datasets.scenes.primitives import axes_along, box, ellipsoid, frustum, rod
from datasets.scenes.render import Light, Rendering, Scene, render
from datasets.scenes.write import Settings, render_scene

SIZE = (30, 40)
WHITE = Material((0.9, 0.9, 0.9))
CENTRE = np.zeros(3)
FORWARD = make_camera(CENTRE, yaw=0, pitch=0, roll=0, fov=np.pi / 2)  # a focal length of 20 pixels at this size


def picture(*primitives, camera=FORWARD, size=SIZE) -> Rendering:
    return render(Scene(primitives, camera, Light(np.array([0, 0, 2.0]))), size, np.random.default_rng(0))


@cache
def rooms(count: int = 40) -> list[tuple[Scene, Rendering]]:
    settings = Settings(count, 1, (120, 160), seed=0)
    return [render_scene(settings, "train", index)[:2] for index in range(count)]


def test_wall_ahead_has_the_same_depth_everywhere():
    depth = picture(box((0, 3, 0), (20, 1, 20), WHITE)).depth
    np.testing.assert_allclose(depth, 2.5, atol=1e-4)


def test_depth_is_along_the_optical_axis_after_a_turn():
    camera = make_camera(np.array([1.0, 2.0, 0.5]), yaw=0.4, pitch=-0.2, roll=0.1, fov=1.0)
    wall = replace(box((0, 0, 0), (30, 30, 1), WHITE), centre=camera.position + 4 * camera.axes[2], axes=camera.axes)
    np.testing.assert_allclose(picture(wall, camera=camera).depth, 3.5, atol=1e-4)


def test_floor_depth_falls_with_the_row():
    depth = picture(box((0, 0, -1.5), (100, 100, 1), WHITE)).depth
    rows = np.arange(15, 30)
    np.testing.assert_allclose(depth[rows, 7], 20 / (rows + 0.5 - 15), rtol=1e-4)
    assert (depth[:15] == 0).all()


@pytest.mark.parametrize("shape", ["ball", "cone"])
def test_nearest_point_of_a_round_shape(shape):
    ball = ellipsoid((0, 4, 0), (1, 1, 1), WHITE)
    cone = frustum((0, 4, -1), (0, 4, 1), (1.2, 0.8), WHITE)
    depth = picture(ball if shape == "ball" else cone, size=(31, 41)).depth
    assert depth[15, 20] == pytest.approx(3.0, abs=1e-4)
    assert depth[15][depth[15] > 0].min() == depth[15, 20]


def test_silhouette_of_a_ball():
    area = (picture(ellipsoid((0, 4, 0), (1, 1, 1), WHITE), size=(120, 160)).depth > 0).sum()
    assert area == pytest.approx(np.pi * 80**2 / 15, rel=0.01)  # the tangent cone has the radius 1 / sqrt(4^2 - 1)


def test_projected_position_of_a_small_ball():
    found = np.argwhere(picture(ellipsoid((1, 4, 0.5), (0.2, 0.2, 0.2), WHITE), size=(120, 160)).depth > 0) + 0.5
    np.testing.assert_allclose(found.mean(axis=0), (60 - 80 * 0.5 / 4, 80 + 80 * 1 / 4), atol=0.3)


def test_nearer_objects_hide_farther_ones():
    near = replace(box((0, 2, 0), (1, 0.1, 1), WHITE), label=2, instance=5)
    far = replace(box((0, 4, 0), (20, 0.1, 20), WHITE), label=1)
    result = picture(near, far)
    assert np.array_equal(result.label == 2, result.depth < 3)
    assert np.array_equal(result.instance == 5, result.label == 2)


def test_order_of_the_primitives_does_not_matter():
    scene, first = rooms()[0]
    again = render(replace(scene, primitives=scene.primitives[::-1]), (120, 160), np.random.default_rng(0))
    assert (again.label != first.label).mean() < 2e-3  # surfaces that coincide may swap
    np.testing.assert_allclose(again.depth, first.depth, rtol=1e-5)


def test_shadow_falls_behind_an_object():
    floor, plate = box((0, 4, -1), (20, 20, 0.1), WHITE), box((0, 4, 0.6), (1, 1, 0.02), WHITE)
    lit, dark = (picture(*parts, size=(120, 160)).rgb[110, 80].mean() for parts in ([floor], [floor, plate]))
    assert lit == pytest.approx(dark, abs=8)  # this point is off the plate's shadow
    light = Light(np.array([0.0, 4.0, 2.0]))
    below = [
        render(Scene(parts, FORWARD, light), (120, 160), np.random.default_rng(0)).rgb[79, 80].mean()
        for parts in ([floor], [floor, plate])
    ]
    assert below[0] > below[1] + 20


def test_edges_of_the_image_are_antialiased_but_labels_are_not():
    bar = replace(box((0, 2, 0), (0.3, 0.1, 9), WHITE), label=1)
    result = picture(replace(bar, axes=axes_along((0.3, 0, 1))), size=(120, 160))
    grey = result.rgb.mean(axis=2)
    assert set(np.unique(result.label)) == {0, 1}
    assert ((grey > 40) & (grey < grey.max() - 60)).sum() > 40


def test_frame_along_any_direction_is_orthonormal():
    for direction in ((0, 0, 1), (0, 0, -2), (1, 2, 3), (1e-9, 0, 1), (0, -1, 0)):
        axes = axes_along(direction, 0.7)
        np.testing.assert_allclose(axes @ axes.T, np.eye(3), atol=1e-12)
        np.testing.assert_allclose(axes[2], np.array(direction) / np.linalg.norm(direction), atol=1e-8)


def test_rod_joins_its_ends():
    parts = rod((1, 2, 3), (2, 4, 5), 0.1, WHITE)
    np.testing.assert_allclose(parts.centre + parts.half[2] * parts.axes[2], (2, 4, 5), atol=1e-12)


def test_hues():
    assert hsv(0, 1, 1) == pytest.approx((1, 0, 0))
    assert hsv(1 / 3, 1, 1) == pytest.approx((0, 1, 0))
    assert hsv(2 / 3, 0.5, 0.8) == pytest.approx((0.4, 0.4, 0.8))


def test_what_hardly_shows_loses_label_and_instance():
    tiny = replace(box((0, 5, 0), (0.05, 0.05, 0.05), WHITE), label=label_of("ball"), instance=1)
    result = picture(tiny, size=(200, 200))
    assert (result.depth > 0).any()
    assert not result.label.any()
    assert not result.instance.any()


def test_every_class_occurs_often():
    labels = np.stack([result.label for _, result in rooms()])
    for number, name in enumerate(SCENE_CLASSES, start=1):
        seen = labels == number
        assert seen.mean() > 0.008, f"{name} covers too little"
        assert seen.any(axis=(1, 2)).mean() > 0.3, f"{name} is in too few rooms"


def test_void_crowds_and_rooms_without_things_exist():
    assert all((result.label == 0).any() for _, result in rooms())
    assert sum(s.crowd for scene, result in rooms() for s in segments(result, scene.crowds)) >= 3
    assert [index for index, (_, result) in enumerate(rooms()) if not result.instance.any()] == [1, 21]


def test_things_have_instances_and_stuff_has_none():
    things = [label_of(name) for name in THING_CLASSES]
    for _, result in rooms():
        assert np.array_equal(np.isin(result.label, things), result.instance > 0)


def test_rooms_are_closed_and_of_plausible_depth():
    for _, result in rooms():
        assert result.depth.min() > 0.1
        assert result.depth.max() < 9


@pytest.mark.parametrize("name", ["chair", "table", "lamp", "plant", "railing"])
def test_thin_parts_are_one_to_three_pixels_wide(name):
    thin = total = 0
    for _, result in rooms():
        mask = (result.label == label_of(name)).astype(np.uint8)
        opened = cv2.morphologyEx(mask, cv2.MORPH_OPEN, np.ones((4, 4), np.uint8))
        parts = cv2.connectedComponentsWithStats(mask - opened, connectivity=8)[2][1:]
        thin += int((parts[:, 2:4].max(axis=1) >= 8).sum())  # long, and nowhere 4 pixels wide
        total += int(mask.any())
    assert thin > total


def test_color_alone_does_not_tell_the_class():
    means = np.array([[result.rgb[result.label == k].mean(axis=0) for _, result in rooms()] for k in (1, 2)])
    assert means.std(axis=1).min() > np.abs(means[0].mean(axis=0) - means[1].mean(axis=0)).max() / 3


def test_class_list():
    ids = [entry.category_id for entry in CLASSES]
    assert len(set(ids)) == len(ids)
    assert set(THING_CLASSES) < set(SCENE_CLASSES)
    assert sorted(ids) != ids


def test_easy_rooms_have_fewer_and_larger_things_without_crowds_and_hard_ones_are_the_default():
    easy, hard = (
        [render_scene(Settings(12, 1, (60, 80), seed=0, difficulty=level), "train", index) for index in range(12)]
        for level in ("easy", "hard")
    )
    things = [[segment for _, rendering, _ in rooms for segment in segments(rendering, ())] for rooms in (easy, hard)]
    count, area = zip(
        *[(len(found), np.median([found.mask.mean() for found in found])) for found in map(_only_things, things)],
        strict=True,
    )
    assert count[0] < 0.7 * count[1]
    assert area[0] > 1.5 * area[1]
    assert not any(scene.crowds for scene, *_ in easy)
    assert np.array_equal(hard[3][1].rgb, render_scene(Settings(12, 1, (60, 80), seed=0), "train", 3)[1].rgb)


def _only_things(found):
    return [segment for segment in found if segment.kind.is_thing]
