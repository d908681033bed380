"""What values in COCO's JSON files may be. Python's parser also takes NaN, Infinity, endless integers and any text."""

import reprlib
from typing import Any, TypeGuard

LONGEST_TEXT = 4096  # of a path or a class; longer ones would cost memory for every image


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The JSON object of these pairs. Raises ValueError if a key occurs twice: Python would take the last one."""
    record = dict(pairs)
    if len(record) < len(pairs):
        keys = [key for key, _ in pairs]
        double = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {reprlib.repr(double)} appears twice in one object")
    return record


def is_id(value: Any) -> TypeGuard[int]:
    """Whether it is an integer from 0 on that fits into int64."""
    return type(value) is int and 0 <= value < 2**63


def is_number(value: Any) -> TypeGuard[float]:
    """Whether it is a finite number with which one can calculate."""
    return type(value) in (int, float) and -1e15 < value < 1e15


def is_text(value: Any) -> TypeGuard[str]:
    """Whether it is a text that can name something: not empty, not endless, and to be written as UTF-8."""
    if not isinstance(value, str) or not 0 < len(value) <= LONGEST_TEXT or "\0" in value:
        return False
    try:
        value.encode()
    except UnicodeEncodeError:  # half of a surrogate pair
        return False
    return True


def box_of(record: dict[str, Any]) -> list[float]:
    """The `bbox` of an annotation or result, [x, y, width, height] in pixels. Raises ValueError if it is none."""
    box = record.get("bbox")
    if not isinstance(box, list) or len(box) != 4 or not all(map(is_number, box)):
        raise ValueError(f"bbox {reprlib.repr(box)} is not [x, y, width, height] in finite numbers")
    if box[2] < 0 or box[3] < 0:
        raise ValueError(f"bbox {reprlib.repr(box)} is inverted: its width or height is negative")
    return box
