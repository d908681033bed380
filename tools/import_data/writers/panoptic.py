"""Write panoptic data in COCO's layout: images/, panoptic_train.json and panoptic_train/ with PNGs, and so for val."""

import json
import os
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from datasets.panoptic.ids import boxes_of, encode_ids
from tools.import_data.readers.panoptic import read_segments
from tools.import_data.record import Item, Object, Report, Source
from tools.import_data.shapes import bitmap_of
from tools.import_data.source_files import look
from tools.import_data.writers.objects import ids_of
from tools.import_data.writers.place import Placer, new_names

Settings = dict[str, Any]


def write(source: Source, placer: Placer, report: Report) -> Settings:
    """Link images and PNGs that fit, write the rest anew, or draw them where objects have outlines.

    Returns the settings of `data`. Raises UserError.
    """
    if any(item.labels is None for item in source.items):
        report.note("segments are drawn from outlines: larger ones first, stuff of a class as one; the rest is void")
    names = dict(zip(map(id, source.items), new_names(source.items), strict=True))
    data: Settings = {
        "classes": {
            number: {"name": name, "isthing": name in source.things} for number, name in sorted(source.classes.items())
        }
    }
    for split in ("train", "val"):
        items = [item for item in source.items if item.split == split]
        for item in items:
            name = names[id(item)]
            placer.image(item, f"images/{name}")
            _place_segments(item, source.things, placer, f"panoptic_{split}/{_png(name)}", report)
        content = _content(source, items, [names[id(item)] for item in items], report)
        placer.write(f"panoptic_{split}.json", json.dumps(content))
        data |= {f"{split}_images": "images", f"{split}_annotations": f"panoptic_{split}.json"}
    training = [item for item in source.items if item.split == "train"]
    if any(all(one.label not in source.things for one in item.objects) for item in training):
        data["train_empty_images"] = True  # stuff is learnt from them
    return data


def _png(name: str) -> str:
    return f"{os.path.splitext(name)[0]}.png"


def _place_segments(item: Item, things: Collection[str], placer: Placer, name: str, report: Report) -> None:
    if item.labels is None:
        ids, item.objects = _drawn(item, things, report)
        placer.write(name, encode_ids(ids))
        return
    if item.labels_fit:
        placer.place(item.labels, name)
        return
    kept = [one.id for one in item.objects if one.id is not None]
    found = read_segments(item.labels, kept, look(item.image))
    assert found is not None
    placer.write(name, encode_ids(np.where(np.isin(found[0], kept), found[0], 0)))


def _drawn(item: Item, things: Collection[str], report: Report) -> tuple[np.ndarray, list[Object]]:
    """The ids [H, W] int32 of the segments that the outlines make, and the segments."""
    ids = np.zeros(item.size, np.int32)
    drawn = [(bitmap_of(one.segmentation, item.size), one) for one in item.objects]
    numbers: dict[str, int] = {}  # of stuff, by class
    segments: dict[int, Object] = {}
    for bitmap, one in sorted(drawn, key=lambda pair: -int(pair[0].sum())):
        number = len(segments) + 1
        if one.label not in things:
            number = numbers.setdefault(one.label, number)
        segments[number] = one
        ids[bitmap] = number
    found = []
    for number, one in segments.items():
        area = int((ids == number).sum())
        if not area:
            report.drop("object that others cover", f"{one.label} in {item.name}")
            continue
        x, y, width, height = boxes_of(ids, np.array([number]))[0].tolist()
        crowd = one.crowd and one.label in things
        found.append(Object(one.label, (x, y, width, height), crowd=crowd, id=number, area=area))
    return ids, found


def _content(source: Source, items: Sequence[Item], names: Sequence[str], report: Report) -> dict[str, Any]:
    categories = {name: number for number, name in source.classes.items()}
    images, annotations = [], []
    for item, name, number in zip(items, names, ids_of([item.id for item in items], "images", report), strict=True):
        images.append({"id": number, "file_name": name, "width": item.size[1], "height": item.size[0]})
        segments = []
        for one in item.objects:
            record: dict[str, Any] = {"id": one.id, "category_id": categories[one.label], "iscrowd": int(one.crowd)}
            record |= {"bbox": list(one.box)} | ({} if one.area is None else {"area": one.area})
            segments.append(record)
        annotations.append({"image_id": number, "file_name": _png(name), "segments_info": segments})
    listed = [
        {"id": number, "name": name, "isthing": int(name in source.things)}
        for number, name in sorted(source.classes.items())
    ]
    return {"images": images, "annotations": annotations, "categories": listed}
