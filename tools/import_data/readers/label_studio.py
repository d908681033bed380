"""Label Studio's JSON and JSON-MIN: numbers in percent of the image as displayed, brushes as its own run lengths.

(Its exports as COCO, YOLO or VOC are read by those formats.) An image is named by its address: an upload has a prefix
of its own, a local file stands after `?d=`. The numbers of several annotators are all taken.
"""

import re
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import numpy as np

from datasets.coco.values import is_number
from structures import Size
from tools.import_data.options import Options, check_object, source_of_objects
from tools.import_data.record import Item, Object, Source, split_of
from tools.import_data.shapes import box_of, ellipse, of_bitmap, polygons_of, rectangle, rotated
from tools.import_data.source_files import NotFoundError, clean, read_json, walk

LABELS = ("rectanglelabels", "polygonlabels", "brushlabels", "ellipselabels", "labels", "keypointlabels", "choices")


def read(options: Options) -> Source:
    """Read a JSON file, or all in a folder. Raises UserError."""
    files = [options.source.name] if options.source.is_file() else list(walk(options.root))
    items: list[Item] = []
    for path in files:
        if not path.lower().endswith(".json"):
            continue
        content = read_json(options.root / path)
        tasks = content if isinstance(content, list) else [content]
        for number, task in enumerate(tasks):
            if isinstance(task, dict):
                item = _item(options, path, number, task)
                items += [item] if item else []
    classes = sorted({one.label for item in items for one in item.objects})
    return source_of_objects(options, items, options.names or classes)


def image_name(address: str) -> str:
    """The path of an image in an address: of a local file what stands after `?d=`, else the path."""
    parts = urlsplit(address.replace("\\", "/"))
    local = parse_qs(parts.query).get("d")
    return clean(local[0] if local else unquote(parts.path))


def _item(options: Options, path: str, number: int, task: dict[str, Any]) -> Item | None:
    data: dict[str, Any] = task["data"] if isinstance(task.get("data"), dict) else task
    shown = f"task {task.get('id', number)} of {path}"
    address = next((value for value in data.values() if isinstance(value, str) and _is_image(value)), None)
    if address is None:
        options.report.drop("task without the address of an image", shown)
        return None
    name = image_name(address)
    try:
        options.images.find(name, path)
    except NotFoundError:
        folder, _, last = name.rpartition("/")
        name = f"{folder}/{re.sub(r'^[0-9a-f]{6,}-', '', last)}"  # uploads are renamed
    located = options.item(name, path, f"{shown}: {address}")
    if located is None:
        return None
    item, seen = located
    item.split = split_of(item.name)
    results = _results(options, task, shown)
    sizes = {(one.get("original_height"), one.get("original_width")) for one in results}
    stated = next(((int(h), int(w)) for h, w in sizes if is_number(h) and is_number(w)), None)
    size = stated or options.labelled_size(seen)
    objects = []
    for count, result in enumerate(results):
        try:
            one = _object(result, size)
            check_object(one, size)
            objects.append(one)
        except (ValueError, KeyError, TypeError, IndexError) as error:
            options.report.drop(f"result: {error or 'malformed'}", f"result {count} of {shown}")
    return item if options.place(item, seen, stated, objects) else None


def _is_image(text: str) -> bool:
    return re.search(r"\.(jpe?g|png|bmp|tiff?|webp)($|[?&#])", text, re.IGNORECASE) is not None


def _results(options: Options, task: dict[str, Any], shown: str) -> list[dict[str, Any]]:
    """The results of all annotations that were not cancelled; in JSON-MIN they lie in the task itself."""
    if not isinstance(task.get("annotations"), list):
        lists = [value for value in task.values() if isinstance(value, list)]
        return [
            one for values in lists for one in values if isinstance(one, dict) and ({"x", "points", "rle"} & one.keys())
        ]
    found = []
    for annotation in task["annotations"]:
        if annotation.get("was_cancelled"):
            options.report.drop("annotation that was cancelled", shown)
            continue
        # relations, texts and the like have no place in the image
        found += [
            one for one in annotation.get("result", []) if isinstance(one, dict) and isinstance(one.get("value"), dict)
        ]
    return found


def _object(result: dict[str, Any], size: Size) -> Object:
    value = result.get("value", result)
    label = next((value[key][0] for key in LABELS if isinstance(value.get(key), list) and value[key]), None)
    if not isinstance(label, str):
        raise ValueError("has no label")
    height, width = size
    if "rle" in value:
        outline: Any = of_bitmap(decode_brush(value["rle"], size))
    elif "points" in value:
        points = [(x * width / 100, y * height / 100) for x, y in value["points"]]
        outline = polygons_of(points)
    elif "radiusX" in value:
        x, y = value["x"] * width / 100, value["y"] * height / 100
        outline = ellipse(x, y, value["radiusX"] * width / 100, value["radiusY"] * height / 100)
        outline = rotated(outline, x, y, value.get("rotation") or 0)
    elif {"x", "y", "width", "height"} <= value.keys():
        scale = (width / 100, height / 100, width / 100, height / 100)
        box = tuple(value[key] * by for key, by in zip(("x", "y", "width", "height"), scale, strict=True))
        turn = value.get("rotation") or 0
        outline = rectangle(box)
        if not turn:
            if box[2] <= 0 or box[3] <= 0:
                raise ValueError("its box is empty")
            return Object(label, box, outline, rectangle=True)
        outline = rotated(outline, box[0], box[1], turn)  # around its upper left corner
    else:
        raise ValueError("has no area")
    found = box_of(outline, size) if outline else None
    if found is None or found[2] <= 0 or found[3] <= 0:
        raise ValueError("its outline is empty")
    return Object(label, found, outline)


def decode_brush(rle: list[int], size: Size) -> np.ndarray:
    """The bitmap [H, W] bool of a brush: packed RGBA (npm package @thi.ng/rle-pack), of which alpha counts.

    Raises ValueError if it is malformed or of another size.
    """
    bits = "".join(f"{byte:08b}" for byte in bytes(rle))
    place = 0

    def take(count: int) -> int:
        nonlocal place
        place += count
        if place > len(bits):
            raise ValueError("its run lengths end too early")
        return int(bits[place - count : place], 2)

    total = take(32)
    if total != 4 * size[0] * size[1]:
        raise ValueError("its run lengths are of another size than its image")
    width = take(5) + 1
    sizes = [take(4) + 1 for _ in range(4)]
    values = np.zeros(total, np.uint8)
    done = 0
    while done < total:
        repeated = take(1)
        end = done + 1 + take(sizes[take(2)])
        if repeated:
            values[done:end] = take(width)
        else:
            for index in range(done, min(end, total)):
                values[index] = take(width)
        done = end
    return values.reshape(*size, 4)[..., 3] > 0
