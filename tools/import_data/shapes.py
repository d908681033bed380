"""Outlines in the forms that exporters write: read them, turn them, draw them."""

import ast
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as mask_utils

from datasets.coco.masks import decode, encode
from datasets.files.levels import TURNS
from structures import Size
from tools.import_data.record import Box, Object
from tools.import_data.source_files import Look

CIRCLE = 64  # corners of the polygon in place of a circle


def polygons_of(value: Any) -> list[list[float]]:
    """The polygons in a value, [x, y, x, y, ..] each: nested at any depth, of flat lists, of points, or of mappings.

    Those with less than three different points or without area are left out. Raises ValueError for other values.
    """
    if isinstance(value, dict):
        value = [value["x"], value["y"]]
    if not isinstance(value, list | tuple):
        raise ValueError("its outline is not a list of numbers")
    if value and all(isinstance(item, dict) for item in value):
        value = [[point["x"], point["y"]] for point in value]
    if value and all(isinstance(item, list | tuple) and len(item) == 2 and _are_numbers(item) for item in value):
        value = [number for point in value for number in point]
    if _are_numbers(value):
        return [list(map(float, value))] if _has_area(value) else []
    return [polygon for part in value for polygon in polygons_of(part)]


def _are_numbers(values: Sequence[Any]) -> bool:
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)


def _has_area(numbers: Sequence[float]) -> bool:
    if len(numbers) % 2 or not all(map(math.isfinite, numbers)):
        raise ValueError("its outline is not an even number of finite numbers")
    points = np.array(numbers, float).reshape(-1, 2)
    if len(np.unique(points, axis=0)) < 3:
        return False
    x, y = points.T
    return bool(abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1))) > 1e-9)


def segmentation_of(value: Any, size: Size) -> Any:
    """COCO's polygons or compressed run lengths of a `segmentation` of any exporter; None if it is empty.

    Raises ValueError if it is malformed.
    """
    if not isinstance(value, dict) or "counts" not in value:
        polygons = polygons_of(value) if value else []
        if polygons:
            encode(polygons, size)
        return polygons or None
    counts = value["counts"]
    if isinstance(counts, str) and counts[:2] in ("b'", 'b"'):  # bytes, written as Python shows them
        counts = ast.literal_eval(counts).decode()
    given = [int(side) for side in value.get("size", size)]
    return run_lengths(encode({"size": given, "counts": counts}, size), size)


def run_lengths(counts: bytes, size: Size) -> dict[str, Any]:
    """COCO's record of a mask in compressed run lengths."""
    return {"size": list(size), "counts": counts.decode()}


def of_bitmap(bitmap: np.ndarray) -> dict[str, Any]:
    """COCO's record of a bitmap [H, W] bool."""
    height, width = bitmap.shape
    return run_lengths(mask_utils.encode(np.asfortranarray(bitmap, np.uint8))["counts"], (height, width))


def bitmap_of(segmentation: Any, size: Size) -> np.ndarray:
    """The bitmap [H, W] bool of polygons or run lengths."""
    return decode([encode(segmentation, size)], size)[0]


def box_of(segmentation: Any, size: Size) -> Box | None:
    """The box around an outline, x, y, width, height; None if it is empty."""
    if isinstance(segmentation, dict):
        x, y, width, height = mask_utils.toBbox({**segmentation, "counts": segmentation["counts"].encode()}).tolist()
        return (x, y, width, height) if width > 0 and height > 0 else None
    points = np.array([number for polygon in segmentation for number in polygon]).reshape(-1, 2)
    (left, top), (right, bottom) = points.min(axis=0).tolist(), points.max(axis=0).tolist()
    return left, top, right - left, bottom - top


def rectangle(box: Box) -> list[list[float]]:
    """The polygon of a box."""
    x, y, width, height = box
    return [[x, y, x + width, y, x + width, y + height, x, y + height]]


def ellipse(x: float, y: float, radius_x: float, radius_y: float) -> list[list[float]]:
    """The polygon in place of an ellipse around (x, y)."""
    angles = np.arange(CIRCLE) * 2 * math.pi / CIRCLE
    points = np.stack([x + radius_x * np.cos(angles), y + radius_y * np.sin(angles)], axis=1)
    return [points.ravel().tolist()]


def rotated(polygons: list[list[float]], x: float, y: float, degrees: float) -> list[list[float]]:
    """The polygons, turned around (x, y) clockwise as displayed."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    turned = []
    for polygon in polygons:
        offsets = np.array(polygon).reshape(-1, 2) - (x, y)
        turned.append((offsets @ np.array([[cos, sin], [-sin, cos]]) + (x, y)).ravel().tolist())
    return turned


def displayed(item: Object, seen: Look) -> Object:
    """The object of a stored image, as it lies in the displayed one."""
    height, width = seen.stored
    box = box_of([_turn(rectangle(item.box)[0], width, height, seen.orientation)], seen.size)
    outline = item.segmentation
    if isinstance(outline, dict):
        turn = TURNS[seen.orientation]
        outline = of_bitmap(np.asarray(Image.fromarray(bitmap_of(outline, seen.stored)).transpose(turn), bool))
    elif outline is not None:
        outline = [_turn(polygon, width, height, seen.orientation) for polygon in outline]
    return replace(item, box=box or item.box, segmentation=outline)


def _turn(polygon: list[float], width: float, height: float, orientation: int) -> list[float]:
    x, y = np.array(polygon).reshape(-1, 2).T
    left, up = width - x, height - y
    turned = {2: (left, y), 3: (left, up), 4: (x, up), 5: (y, x), 6: (up, x), 7: (up, left), 8: (y, left)}
    return np.stack(turned.get(orientation, (x, y)), axis=1).ravel().tolist()
