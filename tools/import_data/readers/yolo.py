"""YOLO: a text file for each image, a line for each object, with the class and fractions of the image.

Layouts: Ultralytics (data.yaml), Roboflow's and Label Studio's exports (classes.txt), Darknet and CVAT (obj.names). A
line has a class and a box (x, y of its centre, width, height), or a polygon. A missing file is an image without object.
"""

from collections import Counter
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from errors import UserError
from structures import Size
from tools.import_data.options import Options, source_of_objects
from tools.import_data.record import SPLIT_WORDS, Item, Object, Source, SplitName, split_of
from tools.import_data.shapes import box_of
from tools.import_data.source_files import NotFoundError, clean, look, read_lines, read_text, walk

FAR = 0.5  # beyond the image, in fractions: not rounding, but another unit


def read(options: Options) -> Source:
    """Read a folder, or a data.yaml. Raises UserError."""
    settings = _settings(options)
    names = options.names or _names(options, settings)
    splits = _splits(options, settings)
    labels = {path for path in walk(options.root) if path.endswith(".txt")}
    with_points = "kpt_shape" in settings
    items, used, classes = [], set(), Counter[int]()
    for image in options.images.names:
        try:
            seen = look(options.images.root / image)
        except NotFoundError as error:
            options.report.drop(str(error), image)
            continue
        item = Item(
            options.images.root / image, image, seen.size, splits.get(image, None if splits else split_of(image))
        )
        if splits and item.split is None:
            options.report.drop("image that data.yaml does not name", image)
            continue
        file = next((path for path in _label_paths(image) if path in labels), None)
        if file is None:
            options.report.note("images without label file, taken as background", image)
        objects = []
        for one, number in _rows(options, file, options.labelled_size(seen), with_points) if file else ():
            used.add(number)
            classes[number] += 1
            name = names[number] if number < len(names) else f"class_{number}" if not names else None
            if name is None:
                options.report.drop(f"object of class {number}, but there are {len(names)} names", file)
                continue
            one.label = name
            objects.append(one)
        labels.discard(file or "")
        options.place(item, seen, None, objects)
        items.append(item)
    for path in sorted(labels):
        if "labels" in PurePosixPath(path).parts or "obj_train_data" in path:
            options.report.drop("label file without image", path)
    if not names and used:
        names = [f"class_{number}" for number in range(max(used) + 1)]
        options.report.note("no names of classes were found: they are called class_0, .. (--classes names them)")
    return source_of_objects(options, items, names)


def _settings(options: Options) -> dict[str, Any]:
    files = [options.source] if options.source.is_file() else sorted(options.source.glob("*.y*ml"))
    for path in files:
        try:
            content = yaml.safe_load(read_text(path))
        except yaml.YAMLError as error:
            raise UserError(path, f"is not valid YAML ({' '.join(str(error).split())[:200]})", "correct it") from None
        if isinstance(content, dict) and ("names" in content or "train" in content):
            return content
    return {}


def _names(options: Options, settings: dict[str, Any]) -> list[str]:
    given = settings.get("names")
    if isinstance(given, dict):
        numbers = {int(key): str(name) for key, name in given.items()}
        return [numbers.get(number, f"class_{number}") for number in range(max(numbers, default=-1) + 1)]
    if isinstance(given, list):
        return [str(name) for name in given]
    for path in walk(options.root):
        if PurePosixPath(path).name in ("classes.txt", "obj.names") or path.endswith(".names"):
            return read_lines(options.root / path)
    return []


def _splits(options: Options, settings: dict[str, Any]) -> dict[str, SplitName]:
    """The split of each image that the settings name, by its path; {}: they name none."""
    found: dict[str, SplitName] = {}
    for key, value in settings.items():
        split = SPLIT_WORDS.get(str(key).lower())
        if split is None or not value:
            continue
        for text in value if isinstance(value, list) else [value]:
            place = _place(options.root, str(settings.get("path") or ""), clean(str(text)))
            if place is None:
                options.report.note("folders that data.yaml names and that are not there", f"{key}: {text}")
            elif place.is_file():
                for line in read_lines(place):
                    try:
                        found.setdefault(options.images.find(line), split)
                    except NotFoundError as error:
                        options.report.drop(f"image of {place.name}: {error}", line)
            else:
                folder = place.relative_to(options.root.resolve()).as_posix()
                inside = (name for name in options.images.names if folder == "." or name.startswith(f"{folder}/"))
                found.update(dict.fromkeys((name for name in inside if name not in found), split))
    return found


def _place(root: Path, path: str, text: str) -> Path | None:
    """The folder or list that data.yaml means: its paths may be of another machine, or begin with `../`."""
    text = "/".join(part for part in text.split("/") if part != "..")
    for start in (clean(path), ""):
        parts = PurePosixPath(start, text).parts
        for first in range(len(parts)):
            place = root.joinpath(*parts[first:]).resolve()
            if place.exists() and place.is_relative_to(root.resolve()):
                return place
    return None


def _label_paths(image: str) -> list[str]:
    """Where the label file of an image may be: `images` exchanged for `labels`, or beside the image."""
    path = PurePosixPath(image).with_suffix(".txt")
    parts = list(path.parts)
    places = [
        "/".join([*parts[:index], "labels", *parts[index + 1 :]])
        for index in reversed(range(len(parts) - 1))
        if parts[index].lower() == "images"
    ]
    return [*places, path.as_posix()]


def _rows(options: Options, file: str, size: Size, with_points: bool) -> list[tuple[Object, int]]:
    """The objects of a label file, and the numbers of their classes."""
    found, seen, report = [], set(), options.report
    for count, line in enumerate(read_text(options.root / file).splitlines(), start=1):
        fields = tuple(line.split())
        where = f"{file} line {count}"
        if not fields:
            continue
        if fields in seen:
            report.drop("line that repeats another one", where)
            continue
        seen.add(fields)
        try:
            number, values = int(float(fields[0])), [float(field) for field in fields[1:]]
            found.append((_object(options, where, values[:4] if with_points else values, size), number))
        except ValueError as error:
            report.drop(f"line: {error}" if "its" in str(error) else "line that is not a class and numbers", where)
    return [(one, number) for one, number in found if number >= 0]


def _object(options: Options, where: str, values: list[float], size: Size) -> Object:
    height, width = size
    if len(values) == 5:
        options.report.note("lines with a sixth number (a confidence or a track), which is left out", where)
        values = values[:4]
    if len(values) < 4 or len(values) % 2:
        raise ValueError("its numbers are neither a box nor a polygon")
    points = values
    if len(values) == 4:
        x, y, w, h = values
        points = [x - w / 2, y - h / 2, x + w / 2, y + h / 2]
    if not all(-FAR <= value <= 1 + FAR for value in points):
        raise ValueError("its numbers are not fractions of the image")
    clipped = [min(max(value, 0.0), 1.0) for value in points]
    if any(abs(one - other) > 1e-6 for one, other in zip(points, clipped, strict=True)):
        options.report.note("lines that reach beyond the image, cut off there", where)
    pixels = [value * (height if index % 2 else width) for index, value in enumerate(clipped)]
    if len(values) == 4:
        left, top, right, bottom = pixels
        if right <= left or bottom <= top:
            raise ValueError("its box is empty")
        return Object("", (left, top, right - left, bottom - top))
    box = box_of([pixels], size)
    if box is None or box[2] <= 0 or box[3] <= 0:
        raise ValueError("its polygon is empty")
    return Object("", box, [pixels])
