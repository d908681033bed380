"""Checks of values in COCO's JSON files. Python's parser also accepts NaN, Infinity, huge integers and any text."""

import reprlib
from typing import Any, TypeGuard

LONGEST_TEXT = 4096  # characters of a path or a class name; longer ones would cost memory for every image


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The JSON object with these pairs. Raises ValueError if a key occurs twice; Python itself would keep the last."""
    record = dict(pairs)
    if len(record) < len(pairs):
        keys = [key for key, _ in pairs]
        duplicate = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {reprlib.repr(duplicate)} appears twice in one object")
    return record


def whole_number(value: Any) -> int | None:
    """An integer, or a float that is one, as pandas writes them, as an int. None: it is neither, or a boolean.

    From 2**53 on floats no longer hold every integer, so there a float may stand for another one: None.
    """
    if type(value) is float and value.is_integer() and abs(value) < 2**53:
        return int(value)
    return value if type(value) is int else None


def id_number(value: Any) -> int | None:
    """An id of at least 0 that fits into int64: a whole number, or a text of decimal digits. None: it is no such id.

    Leading zeros do not count: COCO's image files are named by their ids with 12 digits.
    """
    if type(value) is int:  # nearly always
        number: int | None = value
    elif isinstance(value, str):
        number = int(value) if value.isascii() and value.isdigit() and len(value) < 20 else None
    else:
        number = whole_number(value)
    return number if number is not None and 0 <= number < 2**63 else None


def is_number(value: Any) -> TypeGuard[float]:
    """Whether `value` is a finite number of at most 15 digits before the decimal point."""
    return type(value) in (int, float) and -1e15 < value < 1e15


def is_text(value: Any) -> TypeGuard[str]:
    """Whether `value` can be a name: a string, not empty, not too long, without null bytes, that UTF-8 can encode."""
    if not isinstance(value, str) or not 0 < len(value) <= LONGEST_TEXT or "\0" in value:
        return False
    try:
        value.encode()
    except UnicodeEncodeError:  # half of a surrogate pair
        return False
    return True


def box_of(record: dict[str, Any]) -> list[float]:
    """The `bbox` of an annotation or result, [x, y, width, height] in pixels. Raises ValueError if it is malformed."""
    box = record.get("bbox")
    if not isinstance(box, list) or len(box) != 4 or not all(map(is_number, box)):
        raise ValueError(f"bbox {reprlib.repr(box)} is not [x, y, width, height] in finite numbers")
    if box[2] < 0 or box[3] < 0:
        raise ValueError(f"bbox {reprlib.repr(box)} is inverted: its width or height is negative")
    return box


def flag_of(record: dict[str, Any], key: str) -> int:
    """The flag at `key`, 0 or 1; 0 if it is missing or null. Raises ValueError if it is anything else."""
    value = record.get(key)
    if value is None:
        return 0
    if value not in (0, 1):
        raise ValueError(f"{key} is {reprlib.repr(value)}, neither 0 nor 1")
    return int(value)
