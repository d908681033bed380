"""Tables of classes: names in order, or the value or colour of each class, in the forms that tools write."""

import csv
import io
import json
import re
from pathlib import Path
from typing import Any

import yaml

from errors import UserError
from tools.import_data.record import Table
from tools.import_data.source_files import read_lines, read_text

CITYSCAPES = {
    7: "road",
    8: "sidewalk",
    11: "building",
    12: "wall",
    13: "fence",
    17: "pole",
    19: "traffic light",
    20: "traffic sign",
    21: "vegetation",
    22: "terrain",
    23: "sky",
    24: "person",
    25: "rider",
    26: "car",
    27: "truck",
    28: "bus",
    31: "train",
    32: "motorcycle",
    33: "bicycle",
}
CITYSCAPES_IGNORED = {0, 1, 2, 3, 4, 5, 6, 9, 10, 14, 15, 16, 18, 29, 30, 255}
VOC = [
    *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car"),
    *("cat", "chair", "cow", "diningtable", "dog", "horse", "motorbike"),
    *("person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
]
BORDER = (224, 224, 192)  # of VOC's objects, in pictures with colours
IGNORED_NAMES = {"ignore", "ignored", "void", "unlabeled", "unlabelled", "__ignore__"}


def read_classes(text: str) -> tuple[list[str] | None, Table | None]:
    """The value of `--classes`: `a,b,c`, or a file. Names in order, or a table. Raises UserError.

    Files: a name a line; YAML or JSON with {VALUE: NAME} or {NAME: [R, G, B]}; CSV with name, r, g, b (or value);
    CVAT's labelmap.txt (`name:r,g,b::`).
    """
    path = Path(text)
    if not path.is_file():
        if "/" in text or re.search(r"\.(txt|csv|ya?ml|json)$", text):
            raise UserError(f"--classes {text}", "no such file", "name a file, or the classes: --classes screw,nut")
        return [name.strip() for name in text.split(",") if name.strip()], None
    entries = _entries(path)
    if not entries:
        return read_lines(path), None
    table = Table({})
    for key, name in entries:
        if name.lower() in IGNORED_NAMES:
            table.ignored.add(key)
        else:
            table.classes[key] = name
    if len({isinstance(key, tuple) for key, _ in entries}) > 1:
        raise UserError(f"--classes {path}", "has values and colours", "write one of them for every class")
    return None, table


def _entries(path: Path) -> list[tuple[Any, str]]:
    """Values or colours and names; []: the file holds names alone."""
    text, suffix = read_text(path), path.suffix.lower()
    try:
        if suffix in (".yaml", ".yml", ".json"):
            content = json.loads(text) if suffix == ".json" else yaml.safe_load(text)
            if not isinstance(content, dict):
                raise ValueError("is not a mapping")
            return [_entry(key, value) for key, value in content.items()]
        if suffix == ".csv":
            return [
                _row(row) for row in csv.reader(io.StringIO(text)) if row and any(map(str.isdigit, row[-1].strip()))
            ]
        lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
        if lines and all(re.fullmatch(r"[^:]+:\d+,\d+,\d+(:.*)?", line.strip()) for line in lines):
            return [
                _entry(name, rest.split(":")[0].split(",")) for name, _, rest in (line.partition(":") for line in lines)
            ]
    except (ValueError, yaml.YAMLError, IndexError) as error:
        what = f"is no table of classes ({' '.join(str(error).split())[:200]})"
        raise UserError(f"--classes {path}", what, "write VALUE: NAME, or NAME: [R, G, B], one a line") from None
    return []


def _entry(key: Any, value: Any) -> tuple[Any, str]:
    if isinstance(value, list) and len(value) == 3:
        return tuple(int(part) for part in value), str(key)
    if isinstance(value, int):  # NAME: VALUE
        return value, str(key)
    return int(key), str(value)


def _row(row: list[str]) -> tuple[Any, str]:
    numbers = [int(field) for field in row if field.strip().isdigit()]
    name = next(field.strip() for field in row if not field.strip().isdigit())
    return (tuple(numbers[-3:]) if len(numbers) >= 3 else numbers[0]), name
