"""Curves: where the points lie, and that they never fail on odd numbers."""

import re

import pytest

from tools.pages.charts import curves, reliability
from tools.pages.html import bar, number


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
    assert svg.count("<circle") == 2


def test_numbers_and_bars():
    assert (number(None), number(float("nan")), number(1.26)) == ("–", "–", "1.3")
    assert "width:50.00%" in bar(5, 10, "5")
    assert "width" not in bar(float("nan"), 10, "–")
    assert "width:100.00%" in bar(20, 10, "20")
