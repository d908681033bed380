"""The pictures of docs/upsamplers.md."""

import numpy as np
import pytest

from tests.conftest import ROOT
from tools.show_sampling.gallery import PANEL, PICTURES, colours_of, draw_strip, features, render_colours, trained
from upsamplers import NAMES


@pytest.fixture(scope="module")
def scene():
    return render_colours()


def test_every_upsampler_has_a_small_picture_in_its_section():
    drawn = {name for names in PICTURES.values() for name in names}
    assert drawn == set(NAMES) - {"dysample+", "dysample-s", "dysample-s+"}  # which look like dysample
    sections = (ROOT / "docs/upsamplers.md").read_text().split("\n## ")
    for picture, names in PICTURES.items():
        section = next(text for text in sections if f"(images/upsamplers/{picture}.webp)" in text)
        assert set(names) <= set(section.splitlines()[0].split(", "))
        assert (ROOT / f"docs/images/upsamplers/{picture}.webp").stat().st_size < 40_000


def test_panels_are_image_and_x_then_result_and_what_is_read(scene):
    strip = draw_strip(("nearest", "bilinear"), scene, steps=0)
    image, x, nearest, response, bilinear, _ = np.split(strip[-PANEL:], np.arange(1, 6) * (PANEL + 4), axis=1)
    assert np.array_equal(nearest, x)
    assert not np.array_equal(bilinear, x)
    assert not np.array_equal(image, x)
    brighter = np.unique(response[:, :PANEL], return_counts=True)
    assert brighter[0][[0, -1]].tolist() == [128, 255]
    assert brighter[1][-1] == pytest.approx(3 * (PANEL / 10) ** 2, rel=0.2)  # one pixel of x, of 10 x 10


@pytest.mark.parametrize(("name", "panels"), [("carafe", 4), ("indexnet", 4), ("sapa-d", 4), ("freqfusion", 5)])
def test_each_kind_is_drawn(scene, name, panels):
    assert draw_strip((name,), scene, steps=0).shape == (PANEL + 22, panels * (PANEL + 4) - 4, 3)


@pytest.mark.slow  # an optimiser's first step imports for seconds
def test_training_brings_the_result_nearer_to_the_classes(scene):
    x, guide = features(scene)
    start, later = (
        (colours_of(trained("carafe", scene, steps)(x, guide)) - scene.classes).square().mean() for steps in (0, 20)
    )
    assert later < 0.9 * start
