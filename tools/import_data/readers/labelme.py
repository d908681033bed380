"""Labelme: a JSON file for each image, with shapes in pixels of the image as displayed.

Shapes with one label and one group_id are parts of one object. Lines and points have no area and are left out.
"""

import base64
import binascii
import io
import math
from collections import Counter
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from PIL import Image

from datasets.coco.values import is_number
from errors import UserError
from structures import Size
from tools.import_data.options import Options, check_object, source_of_objects
from tools.import_data.record import Item, Object, Source, split_of
from tools.import_data.shapes import bitmap_of, box_of, ellipse, of_bitmap, polygons_of, rectangle
from tools.import_data.source_files import Look, NotFoundError, read_json, walk

IGNORED = ("__ignore__", "_background_")  # labelme's own names for what is no object


def read(options: Options) -> Source:
    """Read a folder, or one JSON file. Raises UserError."""
    files = [options.source.name] if options.source.is_file() else list(walk(options.root))
    items: list[Item] = []
    classes: Counter[str] = Counter()
    for path in files:
        if not path.lower().endswith(".json"):
            continue
        try:
            content = read_json(options.root / path)
        except UserError as error:
            options.report.drop("JSON file that cannot be read", error.brief)
            continue
        if not isinstance(content, dict) or not isinstance(content.get("shapes"), list):
            options.report.drop("JSON file without shapes", path)
            continue
        located = _image(options, path, content)
        if located is None:
            continue
        item, seen = located
        item.split = split_of(path)
        height, width = content.get("imageHeight"), content.get("imageWidth")
        stated = (int(height), int(width)) if is_number(height) and is_number(width) else None
        objects = _objects(options, path, content["shapes"], stated or options.labelled_size(seen))
        if options.place(item, seen, stated, objects):
            classes.update(one.label for one in item.objects)
            items.append(item)
    return source_of_objects(options, items, options.names or sorted(classes))


def _image(options: Options, path: str, content: dict[str, Any]) -> tuple[Item, Look] | None:
    """The image on disk, by imagePath or by the name of the JSON file, or else the one inside the file."""
    stem = PurePosixPath(path).stem
    for name in (content.get("imagePath"), stem):
        try:
            found = options.images.find(str(name), path) if name else ""
        except NotFoundError:
            continue
        if found:
            return options.item(found, path, path)
    data = content.get("imageData")
    if not data:
        return options.item(str(content.get("imagePath") or stem), path, path)
    try:
        decoded = base64.b64decode(data)
        with Image.open(io.BytesIO(decoded)) as header:
            (width, height), kind = header.size, header.format or "PNG"
    except (ValueError, TypeError, OSError, binascii.Error):
        options.report.drop("file whose imageData is no image", path)
        return None
    suffix = {"JPEG": ".jpg", "PNG": ".png"}.get(kind, f".{kind.lower()}")
    name = PurePosixPath(path).with_suffix(suffix).as_posix()
    options.report.note("images that lie in their JSON file only, and are written out", path)
    size = (height, width)
    return Item(options.root / path, name, size, content=decoded), Look(size, size, 1)


def _objects(options: Options, path: str, shapes: list[Any], size: Size) -> list[Object]:
    groups: dict[Any, list[Object]] = {}
    for number, shape in enumerate(shapes):
        where = f"shape {number} of {path}"
        label = shape.get("label") if isinstance(shape, dict) else None
        if not isinstance(label, str) or not label or label in IGNORED:
            options.report.drop("shape without label, or labelled to be ignored", where)
            continue
        kind = shape.get("shape_type") or "polygon"
        try:
            outline = _outline(shape, kind, size)
            box = None if outline is None else box_of(outline, size)
            if outline is None or box is None or box[2] <= 0 or box[3] <= 0:
                options.report.drop(f"shape {kind} without area", where)
                continue
            one = Object(label, box, outline, rectangle=kind == "rectangle")
            check_object(one, size)
        except (ValueError, KeyError, TypeError, IndexError, OSError) as error:
            options.report.drop(f"shape that is malformed ({error})", where)
            continue
        group = shape.get("group_id")
        groups.setdefault(number if group is None else (label, group), []).append(one)
    return [_joined(parts, size) for parts in groups.values()]


def _outline(shape: dict[str, Any], kind: str, size: Size) -> Any:
    points = np.array(shape["points"], float).reshape(-1, 2)
    if kind == "rectangle":
        (left, top), (right, bottom) = points.min(axis=0), points.max(axis=0)
        return rectangle((left, top, right - left, bottom - top))
    if kind == "circle":
        (x, y), edge = points[0].tolist(), points[1].tolist()
        radius = math.hypot(edge[0] - x, edge[1] - y)
        return ellipse(x, y, radius, radius) if radius > 0 else None
    if kind == "mask":
        with Image.open(io.BytesIO(base64.b64decode(shape["mask"]))) as picture:
            part = np.asarray(picture.convert("L")) > 0
        left, top = (int(value) for value in points[0])
        bitmap = np.zeros(size, bool)
        window = bitmap[top : top + part.shape[0], left : left + part.shape[1]]
        window |= part[: window.shape[0], : window.shape[1]]
        return of_bitmap(bitmap)
    if kind in ("line", "linestrip", "point", "points"):
        return None
    return polygons_of(points.ravel().tolist()) or None


def _joined(parts: list[Object], size: Size) -> Object:
    """The object that these are parts of. Rectangles among outlines count as outlines."""
    if len(parts) == 1:
        return parts[0]
    outlines = [part.segmentation for part in parts]
    boxes = np.array([part.box for part in parts])
    low, high = boxes[:, :2].min(axis=0), (boxes[:, :2] + boxes[:, 2:]).max(axis=0)
    box = (*low.tolist(), *(high - low).tolist())
    if all(isinstance(outline, list) for outline in outlines):
        joined: Any = [polygon for outline in outlines for polygon in outline]
    else:
        joined = of_bitmap(np.any([bitmap_of(outline, size) for outline in outlines], axis=0))
    return Object(parts[0].label, box, joined, rectangle=all(part.rectangle for part in parts))
