"""Curves: where the points lie, and that they never fail on odd numbers."""

import base64
import io
import re

import numpy as np
import pytest
from PIL import Image

from tools.pages.charts import curves, reliability
from tools.pages.html import bar, card, number


def points(svg: str) -> list[list[tuple[float, float]]]:
    lines = re.findall(r'<polyline class="c\d" points="([^"]*)"', svg)
    return [[tuple(map(float, pair.split(","))) for pair in line.split()] for line in lines]


def test_curves_share_their_axes():
    first, second = points(curves({"a": ([0, 10], [1.0, 3.0]), "b": ([0, 5], [2.0, 2.0])}, "step"))
    assert first[0][0] == second[0][0]
    assert second[1][0] == pytest.approx((first[0][0] + first[1][0]) / 2, abs=0.1)
    assert second[0][1] == pytest.approx((first[0][1] + first[1][1]) / 2, abs=0.1)
    assert first[1][1] < first[0][1]  # larger is higher


@pytest.mark.parametrize("values", [[], [float("nan")], [2.0], [0.0, 0.0], [float("inf"), 1.0]])
def test_odd_curves_are_drawn(values):
    svg = curves({"a<b": (list(range(len(values))), values)}, "step")
    assert "nan" not in svg
    assert "a<b" not in svg


def test_the_diagonal_is_calibrated():
    svg = reliability([(0.5, 0.5, 10), (1.0, 0.0, 1)])
    assert "score 0.50: 50 % of 10 are right" in svg
    (right, sure) = [tuple(map(float, place)) for place in re.findall(r'cx="([\d.]+)" cy="([\d.]+)"', svg)]
    assert right[0] < sure[0]
    assert right[1] < sure[1]  # more of them are right: higher


def test_numbers_and_bars():
    assert (number(None), number(float("nan")), number(1.26)) == ("–", "–", "1.3")
    assert "width:50.00%" in bar(5, 10, "5")
    assert "width" not in bar(float("nan"), 10, "–")
    assert "width:100.00%" in bar(20, 10, "20")


def test_a_card_has_the_picture_in_its_colours_and_no_larger_than_asked():
    picture = np.zeros((100, 200, 3), np.uint8)
    picture[..., 0] = 250
    html = card(picture, 0, "why", "name", longest_side=50)
    shown = Image.open(io.BytesIO(base64.b64decode(re.search(r"base64,([^\"]+)", html)[1])))
    assert shown.size == (50, 25)
    assert 'width="50" height="25"' in html
    assert np.asarray(shown)[10, 10].argmax() == 0
