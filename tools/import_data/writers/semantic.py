"""Write label maps in ADE20K's layout, or only lists of the images if training can read the maps where they are."""

import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from datasets.files.folders import normal
from datasets.files.png import voc_colours
from tools.import_data.readers.maps import read_map, turned
from tools.import_data.record import Report, Source, Table
from tools.import_data.shapes import bitmap_of
from tools.import_data.source_files import look
from tools.import_data.writers.place import Placer, new_names

Settings = dict[str, Any]
BACKGROUND = "background"


def write(source: Source, placer: Placer, report: Report, root: Path) -> Settings:
    """Write what is needed. root: of the source. Returns the settings of `data`. Raises UserError."""
    if source.table is None:
        return _draw(source, placer, report)
    if source.as_stored:
        in_place = _in_place(source, placer, root)
        return in_place or _link(source, placer)
    return _convert(source, source.table, placer)


def _in_place(source: Source, placer: Placer, root: Path) -> Settings | None:
    """Lists of the images, and settings that read images and maps where they are; None: their names do not allow it."""
    data: Settings = {"root": str(root.resolve())}
    lists = {}
    for split in ("train", "val"):
        items = [item for item in source.items if item.split == split]
        images = [str(item.image) for item in items]
        labels = [str(item.labels) for item in items]
        folders = [os.path.commonpath([os.path.dirname(path) for path in paths]) for paths in (images, labels)]
        ends = [_end(images, source.image_end), _end(labels, source.label_end)]
        if None in ends:
            return None
        ids = [
            [_id(os.path.relpath(path, folder), str(end)) for path in paths]
            for paths, folder, end in zip((images, labels), folders, ends, strict=True)
        ]
        if ids[0] != ids[1] or len(set(ids[0])) < len(ids[0]):
            return None
        for paths, folder, end in zip((images, labels), folders, ends, strict=True):
            # The loader searches subfolders only of a folder without such files itself.
            below = any(os.path.dirname(path) != folder for path in paths)
            if below and any(name.endswith(str(end)) for name in os.listdir(folder)):
                return None
        data[f"{split}_images"], data[f"{split}_annotations"] = (os.path.relpath(folder, root) for folder in folders)
        data[f"{split}_list"] = str((placer.out / f"{split}.txt").resolve())
        lists[split] = "".join(f"{os.path.relpath(path, folders[0])}\n" for path in images)
        if split == "train":
            data["image_suffix"], data["label_suffix"] = map(str, ends)
        elif (data["image_suffix"], data["label_suffix"]) != tuple(map(str, ends)):
            return None
    for split, text in lists.items():
        placer.write(f"{split}.txt", text)
    return data | _table_settings(source.table)


def _end(paths: Sequence[str], end: str) -> str | None:
    """How all paths end: the end of their stems and their suffix; None: they do not agree."""
    suffixes = {os.path.splitext(path)[1] for path in paths}
    if len(suffixes) != 1:
        return None
    whole = end + suffixes.pop()
    return whole if all(path.endswith(whole) for path in paths) else None


def _id(path: str, end: str) -> str:
    return normal(path).removesuffix(end).replace("/", "_")


def _link(source: Source, placer: Placer) -> Settings:
    """Images and maps under new names."""
    for item, name in zip(source.items, new_names(source.items), strict=True):
        placer.image(item, f"images/{item.split}/{name}")
        if item.labels is not None:
            placer.place(item.labels, f"annotations/{item.split}/{os.path.splitext(name)[0]}.png")
    return _folders() | _table_settings(source.table)


def _folders() -> Settings:
    return {
        f"{split}_{kind}": f"{folder}/{split}"
        for split in ("train", "val")
        for kind, folder in (("images", "images"), ("annotations", "annotations"))
    }


def _table_settings(table: Table | None) -> Settings:
    if table is None:
        return {}
    classes = list(dict.fromkeys(table.classes.values()))
    return {"classes": classes, "label_values": dict(table.classes), "ignore_labels": sorted(table.ignored)}


def _new_settings(classes: list[str]) -> Settings:
    return _folders() | {"classes": classes, "first_label": 0, "ignore_labels": [255 if len(classes) < 256 else 65535]}


def _convert(source: Source, table: Table, placer: Placer) -> Settings:
    """Images, and new maps of class indices."""
    classes = list(dict.fromkeys(table.classes.values()))
    for item, name in zip(source.items, new_names(source.items), strict=True):
        placer.image(item, f"images/{item.split}/{name}")
        assert item.labels is not None
        values = turned(read_map(item.labels), look(item.image))
        assert values is not None
        if table.has_colours and values.ndim == 2:
            values = np.repeat(values[..., None], 3, axis=2)
        labels = np.full(item.size, 255 if len(classes) < 256 else 65535, np.uint16)
        for key, label in table.classes.items():
            matches = values == key if values.ndim == 2 else (values == np.array(key)).all(axis=2)
            labels[matches] = classes.index(label)
        placer.write(f"annotations/{item.split}/{os.path.splitext(name)[0]}.png", png(labels))
    return _new_settings(classes)


def _draw(source: Source, placer: Placer, report: Report) -> Settings:
    """Images, and maps drawn from the outlines of objects, the larger ones first; the rest is background."""
    names = [name for _, name in sorted(source.classes.items()) if name != BACKGROUND]
    classes = [BACKGROUND, *names]
    report.note("label maps are drawn from outlines: larger ones first, and the rest is the class background")
    for item, name in zip(source.items, new_names(source.items), strict=True):
        labels = np.zeros(item.size, np.uint16)
        drawn = [(bitmap_of(one.segmentation, item.size), one) for one in item.objects]
        for bitmap, one in sorted(drawn, key=lambda pair: -int(pair[0].sum())):
            labels[bitmap] = 255 if one.crowd else classes.index(one.label)
        placer.image(item, f"images/{item.split}/{name}")
        placer.write(f"annotations/{item.split}/{os.path.splitext(name)[0]}.png", png(labels))
    return _new_settings(classes)


def png(labels: np.ndarray) -> bytes:
    """A PNG of indices, with a palette so that it can be looked at, or of 16 bits beyond 255."""
    data = io.BytesIO()
    if labels.max(initial=0) > 255:
        Image.fromarray(labels).save(data, "PNG")
        return data.getvalue()
    picture = Image.fromarray(labels.astype(np.uint8))
    picture.putpalette([part for colour in voc_colours() for part in colour])
    picture.save(data, "PNG")
    return data.getvalue()
