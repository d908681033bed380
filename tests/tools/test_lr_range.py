"""The learning-rate range test: its rates, its suggestion, and a whole test of a tiny run."""

import math

import pytest

from errors import UserError
from tests.conftest import ROOT, read
from tools.lr_range.curve import rates_between, smooth, suggest_rate


def test_rates_grow_by_one_factor() -> None:
    assert rates_between(1e-4, 1.0, 5) == pytest.approx([1e-4, 1e-3, 1e-2, 1e-1, 1])


def test_smoothing_is_a_weighted_mean() -> None:
    assert smooth([3.0, 3.0, 3.0]) == pytest.approx([3, 3, 3])
    assert smooth([1.0, 2.0]) == pytest.approx([1, (0.9 * 1 + 2) / 1.9])


def test_the_suggestion_is_a_tenth_of_the_rate_of_the_lowest_loss() -> None:
    rates = rates_between(1e-5, 1.0, 501)
    losses = [(math.log10(rate) + 2) ** 2 for rate in rates]  # lowest at 0.01
    assert suggest_rate(rates, losses) == 0.001


def test_a_loss_that_only_falls_or_only_rises_suggests_nothing() -> None:
    assert suggest_rate([1, 2, 3], [3.0, 2.0, 1.0]) is None
    assert suggest_rate([1, 2, 3], [1.0, 2.0, 3.0]) is None


def test_a_range_test_writes_its_curve_and_nothing_else(here, tiny, tmp_path, capsys) -> None:
    here("tools.lr_range", "--cfg", ROOT / "configs/small/seg.yaml", "--steps", 12, *tiny)
    folder = tmp_path / "seg_lr_range"
    assert sorted(path.name for path in tmp_path.rglob("*.*")) == ["lr_range.json", "lr_range.png"]
    record = read(folder / "lr_range.json")
    assert len(record["losses"]) == len(record["smoothed"]) == len(record["rates"])
    assert record["rates"] == pytest.approx(rates_between(1e-6, 1, 12)[: len(record["rates"])])
    assert (folder / "lr_range.png").read_bytes().startswith(b"\x89PNG")
    assert "suggested" in capsys.readouterr().out


@pytest.mark.parametrize("words", [["--steps", 3], ["--low", 2], ["--low", "-1"], ["--high", "inf"]])
def test_a_range_that_is_none_is_an_error(here, tiny, words) -> None:
    with pytest.raises(UserError, match=r"is out of range|is no range of positive rates"):
        here("tools.lr_range", "--cfg", ROOT / "configs/small/seg.yaml", *words, *tiny)
