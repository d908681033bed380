"""Write boxes and masks in COCO's layout: images/, train.json, val.json."""

import json
from collections.abc import Sequence
from typing import Any

from datasets.coco.masks import area_of, encode
from tools.import_data.record import Item, Report, Source
from tools.import_data.writers.place import Placer, new_names

Settings = dict[str, Any]


def write(source: Source, placer: Placer, report: Report) -> Settings:
    """Write everything. Returns the settings of `data`. Raises UserError."""
    names = dict(zip(map(id, source.items), new_names(source.items), strict=True))
    for item in source.items:
        placer.image(item, f"images/{names[id(item)]}")
    for split in ("train", "val"):
        items = [item for item in source.items if item.split == split]
        placer.write(f"{split}.json", json.dumps(_content(source, items, names, report)))
    crowds = [one.crowd for item in source.items for one in item.objects]
    data: Settings = {"classes": dict(sorted(source.classes.items()))}
    data |= {f"{split}_images": "images" for split in ("train", "val")}
    data |= {f"{split}_annotations": f"{split}.json" for split in ("train", "val")}
    if all(crowds):
        report.note("all objects are marked as crowds: they are taken as objects (data.crowds)")
        data["crowds"] = "objects"
    if any(not item.objects for item in source.items if item.split == "train"):
        data["train_empty_images"] = True
    return data


def _content(source: Source, items: Sequence[Item], names: dict[int, str], report: Report) -> dict[str, Any]:
    """What a COCO file holds. Ids are kept if each image and object has its own."""
    categories = {name: number for number, name in source.classes.items()}
    image_ids = ids_of([item.id for item in items], "images", report)
    pairs = [(item, image_id, one) for item, image_id in zip(items, image_ids, strict=True) for one in item.objects]
    ids = ids_of([one.id for _, _, one in pairs], "objects", report)
    annotations = []
    for (item, image_id, one), number in zip(pairs, ids, strict=True):
        area = one.area
        if area is None:
            mask = one.segmentation is not None
            area = area_of(encode(one.segmentation, item.size), item.size) if mask else one.box[2] * one.box[3]
        record = {"id": number, "image_id": image_id, "category_id": categories[one.label], "bbox": list(one.box)}
        record |= {"area": area, "iscrowd": int(one.crowd)}
        annotations.append(record if one.segmentation is None else {**record, "segmentation": one.segmentation})
    images = [
        {"id": image_id, "file_name": names[id(item)], "width": item.size[1], "height": item.size[0]}
        for item, image_id in zip(items, image_ids, strict=True)
    ]
    listed = [{"id": number, "name": name} for number, name in sorted(source.classes.items())]
    return {"images": images, "annotations": annotations, "categories": listed}


def ids_of(given: Sequence[int | None], kind: str, report: Report) -> list[int]:
    """The ids as given if each has its own, else numbers from 1. kind: what has them, for the report."""
    numbers = [number for number in given if number is not None]
    if len(numbers) == len(given) == len(set(numbers)):
        return numbers
    if numbers:
        report.note(f"ids of {kind} are missing or appear twice: they are numbered anew")
    return list(range(1, len(given) + 1))
