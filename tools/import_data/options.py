"""What the command was asked for, and what all readers of objects share."""

import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from datasets.coco.masks import encode
from errors import UserError
from structures import Size
from tools.import_data.record import Item, Object, Report, Source, Table, Task, numbered
from tools.import_data.shapes import displayed
from tools.import_data.source_files import Images, Look, NotFoundError, look


@dataclass
class Options:
    """source: the folder of the data, or a file of it. image_root: where images are searched, the source if None.

    names, table: of `--classes`, or None. stored: labels whose image has an EXIF orientation belong to its stored form
    where no size tells. pixel_one: the first pixel of VOC boxes is 1; None: judge by the boxes. depth_scale: units
    of the depth maps per metre; None: judge by their type. things: of panoptic data; None: as the files say.
    """

    source: Path
    report: Report
    image_root: Path | None = None
    labels_root: Path | None = None
    task: Task | None = None
    names: list[str] | None = None
    table: Table | None = None
    stored: bool = False
    pixel_one: bool | None = None
    depth_scale: float | None = None
    things: list[str] | None = None

    @property
    def root(self) -> Path:
        """The folder of the source."""
        return self.source.parent if self.source.is_file() else self.source

    @cached_property
    def images(self) -> Images:
        """The images of the source."""
        return Images(self.image_root or self.root)

    def item(self, name: str, near: str, shown: str) -> tuple[Item, Look] | None:
        """The item of the image that an annotation calls `name`; None and a line in the report: there is none.

        near: the path of the annotation file. shown: the name in the report.
        """
        try:
            found = self.images.find(name, near)
            seen = look(self.images.root / found)
        except NotFoundError as error:
            self.report.drop(f"annotated image: {error}", shown)
            return None
        return Item(self.images.root / found, found, seen.size), seen

    def place(self, item: Item, seen: Look, stated: Size | None, objects: list[Object]) -> bool:
        """Give the item its objects, turned with the image if they were made for its stored form.

        stated: the size in the annotation; None: it has none, and its numbers are fractions. Returns False and drops
        the image if it has another size.
        """
        turned = stated is not None and stated != seen.size and stated == seen.stored
        if stated is not None and stated not in (seen.size, seen.stored):
            self.report.drop("image of another size than its annotation says", item.name)
            return False
        undecided = seen.orientation != 1 and (stated is None or seen.size == seen.stored)
        if undecided:
            form = "stored" if self.stored else "displayed"
            self.report.note(f"images turned by EXIF, whose labels are taken to belong to them as {form}", item.name)
        if turned:
            self.report.note(
                "images turned by EXIF, whose labels belonged to the stored form and were turned", item.name
            )
        is_stored = turned or (undecided and self.stored)
        item.objects = [displayed(one, seen) for one in objects] if is_stored else objects
        return True

    def labelled_size(self, seen: Look) -> Size:
        """The size that fractions of the image refer to."""
        return seen.stored if self.stored else seen.size


def check_object(item: Object, size: Size) -> None:
    """Raise ValueError if an object cannot be stored."""
    if not all(map(math.isfinite, item.box)):
        raise ValueError("its box is not finite")
    if item.box[2] < 0 or item.box[3] < 0:
        raise ValueError("its box has a negative width or height")
    if item.segmentation is not None:
        encode(item.segmentation, size)


def without_repeats(items: list[Item], report: Report) -> list[Item]:
    """The first item of each image."""
    kept, seen = [], set()
    for item in items:
        if item.image in seen and item.content is None:
            report.drop("second annotation of one image", item.name)
            continue
        seen.add(item.image)
        kept.append(item)
    return kept


def source_of_objects(options: Options, items: list[Item], classes: list[str] | dict[int, str]) -> Source:
    """The source of objects, for the task that was asked for, or else that they have outlines for.

    Raises UserError if there is none.
    """
    report = options.report
    kept = without_repeats(items, report)
    everything = [one for item in kept for one in item.objects]
    outlined = sum(one.segmentation is not None and not one.rectangle for one in everything)
    if not everything:
        more = f" ({report.lines()[0]})" if report.lines() else ""
        raise UserError(options.source, f"no object was found{more}", "check --from and the folder")
    task: Task = options.task or ("inst" if 2 * outlined > len(everything) else "det")
    if task == "depth":
        raise UserError("--task depth", "this format has objects", "leave it out, or import with --from depth")
    if task == "det" and outlined and options.task is None:
        report.note(f"{outlined} of {len(everything)} objects have an outline: imported as boxes (--task inst: masks)")
    if task == "det":
        for one in everything:
            one.segmentation = None if one.rectangle else one.segmentation
    else:
        if all(one.segmentation is None for one in everything):
            raise UserError(f"--task {task}", "no object has an outline", "leave it out: the objects have boxes")
        for item in kept:
            for one in item.objects:
                if one.segmentation is None:
                    report.drop("object without outline (--task det keeps it as a box)", f"{one.label} in {item.name}")
                elif one.rectangle:
                    report.note("rectangles became masks", f"{one.label} in {item.name}")
            item.objects = [one for one in item.objects if one.segmentation is not None]
    names = classes if isinstance(classes, dict) else numbered(classes)
    things: frozenset[str] = frozenset()
    if task == "pan":
        listed = ", ".join(names.values())
        if options.things is None:
            what = "outlines do not tell things from stuff"
            raise UserError("--task pan", what, f"name the things: --things a,b of the classes {listed}")
        things = frozenset(options.things)
        if unknown := sorted(things - {*names.values()}):
            raise UserError(f"--things {unknown[0]}", "is not a class", f"name some of {listed}")
    return Source(task, kept, classes=names, things=things)
