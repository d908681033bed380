"""Import data: `python -m tools.import_data --from FORMAT SRC --out DIR`, then `python train.py --cfg DIR/config.yaml`.

Formats: yolo, voc, coco (also as CVAT, Roboflow, Labelme and Label Studio export it, and COCO panoptic), labelme,
labelstudio, cityscapes (trees with subfolders and endings), masks (image and mask pairs), depth. DIR then holds the
data in our layouts, the YAML file config.yaml, and import.txt, which names all that was dropped. Images are linked, not
copied; SRC is not changed. The end is a check of all data, as `tools.check_data` does it. See docs/own_data.md.
"""

import shlex
import sys
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

from errors import ArgumentParser, UserError, read_early, run_command

# The keys of the tables OBJECTS and PAIRS.
FORMATS = (
    "yolo",
    "voc",
    "coco",
    "labelme",
    "labelstudio",
    "cityscapes",
    "masks",
    "depth",
)


def read_arguments() -> Namespace:
    """The arguments of the command. Raises UserError."""
    parser = ArgumentParser(prog="tools.import_data", description=__doc__)
    parser.add_argument(
        "--from",
        dest="form",
        required=True,
        choices=FORMATS,
        metavar="FORMAT",
        help=f"the format: {', '.join(FORMATS)}",
    )
    parser.add_argument("source", type=Path, metavar="SRC", help="the folder of the data, or a file of it")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="a new folder")
    parser.add_argument(
        "--task",
        choices=["det", "inst", "seg", "pan"],
        help="boxes, masks, label maps or panoptic segments (default: by the labels)",
    )
    parser.add_argument("--val", type=float, default=0.2, help="share of images to validate on, if SRC has no splits")
    parser.add_argument("--seed", type=int, default=0, help="of the division (default: %(default)s)")
    parser.add_argument(
        "--group-by", metavar="REGEX", help="`folder`, or a pattern: images in which it finds the same stay together"
    )
    parser.add_argument("--classes", metavar="LIST", help="names `a,b`, or a file with names, values or colours")
    parser.add_argument("--things", metavar="LIST", help="which panoptic classes are things: `a,b` (default: isthing)")
    parser.add_argument("--images", type=Path, metavar="DIR", help="folder of the images, if it is not below SRC")
    parser.add_argument("--labels", type=Path, metavar="DIR", help="folder of masks, depth maps or PNGs of segments")
    parser.add_argument("--image-suffix", default="", metavar="END", help="how names of images end: _leftImg8bit.png")
    parser.add_argument("--label-suffix", default="", metavar="END", help="how names of masks or depth maps end")
    parser.add_argument("--depth-scale", type=float, metavar="N", help="units of the depth files per metre")
    parser.add_argument("--first-pixel", type=int, choices=[0, 1], help="of VOC's boxes (default: by the boxes)")
    parser.add_argument("--stored", action="store_true", help="labels belong to images without their EXIF orientation")
    parser.add_argument("--copy", action="store_true", help="copy images instead of linking them")
    parser.add_argument("--no-check", action="store_true", help="do not read the data at the end")
    return parser.parse_args()


if __name__ == "__main__":  # before the imports below, which take seconds
    read_early(read_arguments)

from experiment import load_experiment
from tools.check_data.check import check
from tools.check_data.findings import processors
from tools.check_data.text import describe
from tools.import_data.options import Options
from tools.import_data.readers import coco, depth, label_studio, labelme, maps, voc, yolo
from tools.import_data.record import Report, Source
from tools.import_data.split import split
from tools.import_data.tables import read_classes
from tools.import_data.writers import config_file, objects, panoptic, semantic
from tools.import_data.writers import depth as depth_files
from tools.import_data.writers.place import Placer

Ends = tuple[str, str]
OBJECTS: dict[str, Callable[[Options], Source]] = {
    "yolo": yolo.read,
    "voc": voc.read,
    "coco": coco.read,
    "labelme": labelme.read,
    "labelstudio": label_studio.read,
}
PAIRS: dict[str, Callable[[Options, str, str], Source]] = {
    "cityscapes": maps.read_cityscapes,
    "masks": maps.read,
    "depth": depth.read,
}


def import_data(
    form: str, options: Options, out: Path, ends: Ends, division: dict[str, Any], copy: bool, command: str
) -> Path:
    """Import one source, print what was done, and return the path of the YAML file. Raises UserError."""
    if options.task == "pan" and form in PAIRS:
        do = "import masks and label maps, and join them: python -m tools.make_panoptic --help"
        raise UserError("--task pan", f"is not for --from {form}", do)
    source = PAIRS[form](options, *ends) if form in PAIRS else OBJECTS[form](options)
    if options.things is not None and source.task != "pan":
        raise UserError("--things", "only panoptic data have things and stuff", "leave it out")
    source.items = split(source.items, report=options.report, **division)
    placer = Placer(out, copy)
    if source.task == "seg":
        data = semantic.write(source, placer, options.report, options.root)
    elif source.task == "depth":
        data = depth_files.write(source, placer, options.report)
    elif source.task == "pan":
        data = panoptic.write(source, placer, options.report)
    else:
        data = objects.write(source, placer, options.report)
    placer.write("config.yaml", config_file.text(source.task, out, data, source.items, command))
    placer.write("import.txt", "\n".join([command, *options.report.lines(all_names=True)]) + "\n")
    count = {name: sum(item.split == name for item in source.items) for name in ("train", "val")}
    names = list(dict.fromkeys(source.table.classes.values() if source.table else source.classes.values()))
    print(f"{out}: {source.task}, {count['train']} training and {count['val']} validation images")
    if names:
        print(f"classes: {', '.join(names[:20])}" + (f" and {len(names) - 20} more" if len(names) > 20 else ""))
    print(f"files: {placer.describe()}")
    for line in options.report.lines():
        print(line)
    return out / "config.yaml"


def main() -> None:
    """Run the command."""
    arguments = read_arguments()
    _check(arguments.source, arguments.out, arguments.val, arguments.depth_scale)
    names, table = read_classes(arguments.classes) if arguments.classes else (None, None)
    options = Options(
        source=arguments.source,
        report=Report(),
        image_root=_below(arguments.images, arguments.source),
        labels_root=_below(arguments.labels, arguments.source),
        task=arguments.task,
        names=names,
        table=table,
        stored=arguments.stored,
        pixel_one=None if arguments.first_pixel is None else arguments.first_pixel == 1,
        depth_scale=arguments.depth_scale,
        things=None if arguments.things is None else [name.strip() for name in arguments.things.split(",")],
    )
    division = {"val": arguments.val, "seed": arguments.seed, "group_by": arguments.group_by}
    ends = (arguments.image_suffix, arguments.label_suffix)
    command = f"python -m tools.import_data {shlex.join(sys.argv[1:])}"
    cfg = import_data(arguments.form, options, arguments.out, ends, division, arguments.copy, command)
    code = 0
    if not arguments.no_check:
        report = check(load_experiment(cfg), str(cfg), workers=processors())
        print(describe(report))
        code = report.code
    print(f"train: python train.py --cfg {shlex.quote(str(cfg))}  (first with --check)")
    if code == 2:
        sys.exit(code)


def _check(source: Path, out: Path, val: float, depth_scale: float | None) -> None:
    if not source.exists():
        raise UserError(source, "no such file or folder", "name the folder of the data")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(out, "is not an empty folder", "choose a new --out")
    root = (source if source.is_dir() else source.parent).resolve()
    if out.resolve() == root or root in out.resolve().parents:
        raise UserError(out, "lies in the source, which must not change", "choose an --out beside it")
    if not 0 < val < 1:
        raise UserError(f"--val {val:g}", "is not a share between 0 and 1", "give for example --val 0.2")
    if depth_scale is not None and not depth_scale > 0:
        raise UserError(f"--depth-scale {depth_scale:g}", "is not above 0", "give the units of the files per metre")


def _below(path: Path | None, source: Path) -> Path | None:
    """A folder, by its own path or below the source."""
    if path is None:
        return None
    for place in (source / path, path):
        if place.is_dir():
            return place
    raise UserError(path, "no such folder", f"name one below {source}, or its whole path")


if __name__ == "__main__":
    run_command(main)
