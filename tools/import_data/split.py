"""Divide images into training and validation, by seed and by group."""

import random
import re
from collections.abc import Sequence

from errors import UserError
from tools.import_data.record import Item, Report

FOLDER = "folder"


def group_of(name: str, group_by: str | None) -> str:
    """What images have in common that must not be divided: the first group of a pattern, all it finds, or a folder.

    Images of which the pattern finds nothing are groups of their own.
    """
    if group_by is None:
        return name
    if group_by == FOLDER:
        return name.rpartition("/")[0]
    found = re.search(group_by, name)
    return name if found is None else next((text for text in found.groups() if text is not None), found.group())


def split(items: Sequence[Item], val: float, seed: int, group_by: str | None, report: Report) -> list[Item]:
    """The items for training and validation, with their split set. Given splits are kept.

    If there is nothing to validate on, the images of split test are taken for it; if there are none, the share `val`
    of the others, whole groups at a time. Raises UserError if one of the two would be empty.
    """
    if group_by not in (None, FOLDER):
        try:
            re.compile(group_by or "")
        except re.error as error:
            raise UserError(f"--group-by {group_by}", f"is not a regular expression ({error})", "correct it") from None
    names = {item.split for item in items}
    if "val" not in names and "test" in names and len(names) > 1:
        for item in items:
            item.split = "val" if item.split == "test" else item.split
        report.note("there is no split val; the split test is used for validation")
    for item in items:
        if item.split == "test" and len(names) > 1:
            report.drop("image of the split test, which training does not use", item.name)
        elif item.split is None and "val" in names:
            item.split = "train"
            report.note("images in no split were added to train", item.name)
    items = [item for item in items if item.split != "test" or len(names) == 1]
    if not any(item.split == "val" for item in items):
        _draw(items, val, seed, group_by)
    elif not any(item.split == "train" for item in items):
        _draw(items, val, seed, group_by)
        report.note("there is no split train; the images of val were divided")
    return items


def _draw(items: Sequence[Item], val: float, seed: int, group_by: str | None) -> None:
    groups: dict[str, list[Item]] = {}
    for item in sorted(items, key=lambda item: item.name):
        groups.setdefault(group_of(item.name, group_by), []).append(item)
    if len(groups) < 2:
        what = f"{len(items)} image(s) in {len(groups)} group(s) cannot be divided"
        raise UserError("--group-by" if group_by else "images", what, "give more images, or another --group-by")
    order = sorted(groups)
    random.Random(seed).shuffle(order)
    wanted, taken = max(1, round(val * len(items))), 0
    for number, group in enumerate(order):
        chosen = taken < wanted and number < len(order) - 1
        taken += len(groups[group]) if chosen else 0
        for item in groups[group]:
            item.split = "val" if chosen else "train"
