"""The division into training and validation."""

from pathlib import Path

import pytest

from errors import UserError
from tools.import_data.record import Item, Report
from tools.import_data.split import group_of, split

NAMES = [f"cam{camera}/day{day}_{shot}.jpg" for camera in range(4) for day in range(2) for shot in range(5)]


def divided(names=NAMES, val=0.25, seed=0, group_by=None, given=lambda name: None):
    items = [Item(Path(name), name, (4, 4), given(name)) for name in names]
    return {item.name: item.split for item in split(items, val, seed, group_by, Report())}


def test_the_share_is_kept_and_the_seed_decides():
    first, again, other = divided(), divided(), divided(seed=1)
    assert list(first.values()).count("val") == 10
    assert first == again != other


def test_the_order_of_the_files_does_not_matter():
    assert divided(NAMES) == divided(NAMES[::-1])


@pytest.mark.parametrize("group_by", ["folder", r"^cam\d", r"(day\d)_"])
def test_groups_stay_together(group_by):
    splits = divided(group_by=group_by)
    groups = {}
    for name, where in splits.items():
        groups.setdefault(group_of(name, group_by), set()).add(where)
    assert all(len(found) == 1 for found in groups.values())
    assert set(splits.values()) == {"train", "val"}


def test_given_splits_stay_and_test_is_left_out_or_takes_the_place_of_val():
    by_day = {"0": "train", "1": "test"}
    assert set(divided(given=lambda name: by_day[name[8]]).values()) == {"train", "val"}
    three = divided(given=lambda name: {"cam0": "val", "cam1": "test"}.get(name[:4], "train"))
    assert {name[:4]: where for name, where in three.items()} == {"cam0": "val", "cam2": "train", "cam3": "train"}


def test_a_single_group_cannot_be_divided():
    with pytest.raises(UserError, match="cannot be divided"):
        divided(NAMES[:5], group_by="folder")
