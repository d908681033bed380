"""Fetch, unpack and check COCO 2017: `python -m tools.prepare_coco --root DIR [--parts NAME ...]`.

DIR, the folder that data.root names, then holds annotations, train2017 and val2017. Parts: train2017 (18 GB), val2017
(1 GB), instances (boxes and masks), panoptic; by default all. What lies there already is recognised; a download or an
unpacking that was stopped goes on where it was; the archives are removed at the end. Then `tools.check_data` reads the
splits whose images are there, by the recipe of instances, of panoptic, or both; the command ends with exit code 2 if
training would stop. Licence of the annotations: CC BY 4.0; of the images: the terms of Flickr.
"""

import sys
from argparse import Namespace
from pathlib import Path

from config import check_config
from downloads.archives import Archive, count_files, obtain
from errors import ArgumentParser, UserError, read_early, run_command

SERVER = "http://images.cocodataset.org"
PARTS = {
    "train2017": Archive(
        f"{SERVER}/zips/train2017.zip",
        size=19_336_861_798,
        digest="sha256:69a8bb58ea5f8f99d24875f21416de2e9ded3178e903f1f7603e283b9e06d929",
        folders=("train2017",),
    ),
    "val2017": Archive(
        f"{SERVER}/zips/val2017.zip",
        size=815_585_330,
        digest="sha256:4f7e2ccb2866ec5041993c9cf2a952bbed69647b115d0f74da7ce8f4bef82f05",
        folders=("val2017",),
    ),
    "instances": Archive(
        f"{SERVER}/annotations/annotations_trainval2017.zip",
        size=252_907_541,
        digest="sha256:113a836d90195ee1f884e704da6304dfaaecff1f023f49b6ca93c4aaae470268",
        folders=("annotations/instances_train2017.json", "annotations/instances_val2017.json"),
    ),
    "panoptic": Archive(
        f"{SERVER}/annotations/panoptic_annotations_trainval2017.zip",
        size=860_725_834,
        digest="sha256:c05f76d2129b6b561eb70efe16e7006df62f73fb92889132d373b9d90e31a370",
        folders=("annotations/panoptic_train2017.json", "annotations/panoptic_val2017.json"),
        inner=("annotations/panoptic_train2017.zip", "annotations/panoptic_val2017.zip"),
    ),
}


def read_arguments() -> Namespace:
    """The arguments of the command. Raises UserError."""
    parser = ArgumentParser(prog="tools.prepare_coco", description=__doc__)
    parser.add_argument(
        "--root", type=Path, default=Path("data/coco"), help="folder for the data (default: %(default)s)"
    )
    parser.add_argument(
        "--parts", nargs="+", choices=list(PARTS), default=list(PARTS), metavar="NAME", help=", ".join(PARTS)
    )
    parser.add_argument("--mirror", help="fetch NAME.zip from this address instead of the official one")
    parser.add_argument("--keep", action="store_true", help="keep the archives")
    parser.add_argument("--cfg", type=Path, help="check the data by this configuration instead of the recipes")
    parser.add_argument("--no-check", action="store_true", help="do not read the data at the end")
    arguments = parser.parse_args()
    check_config(arguments.cfg)
    return arguments


if __name__ == "__main__":  # before the imports below, which take seconds
    read_early(read_arguments)

from tools.check_data.findings import SPLITS
from tools.check_data.text import check_and_print

CONFIGS = Path(__file__).parent.parent / "configs"
RECIPES = {"instances": CONFIGS / "inst_dysample.yaml", "panoptic": CONFIGS / "pan_dysample.yaml"}
IMAGES = {"train2017": 118_287, "val2017": 5000}


def prepare(root: Path, parts: list[str], mirror: str | None, keep: bool) -> None:
    """Fetch and unpack what is missing. Raises UserError."""
    _refuse_2014(root)
    for name in parts:
        if _is_there(root, name):
            print(f"{name}: complete")
        else:
            print(obtain(PARTS[name], root, mirror, keep, f"python -m tools.prepare_coco --root {root} --parts {name}"))


def check(root: Path, parts: list[str], cfg: Path | None) -> int:
    """Check the splits whose images are there, by the recipe of each kind of annotations among `parts`, or by `cfg`.

    Returns the highest exit code of `tools.check_data`; 0 if images or annotations are not there.
    """
    splits = [split for split in SPLITS if (root / f"{split}2017").is_dir()]
    recipes = [RECIPES[name] for name in RECIPES if name in parts] if cfg is None else [cfg]
    return max((check_and_print(recipe, root, splits) for recipe in recipes if splits), default=0)


def _is_there(root: Path, name: str) -> bool:
    if name in IMAGES:
        return count_files(root / name, ".jpg") == IMAGES[name]
    if name == "panoptic" and any(
        count_files(root / f"annotations/panoptic_{split}", ".png") != count for split, count in IMAGES.items()
    ):
        return False
    return all((root / file).is_file() for file in PARTS[name].folders)


def _refuse_2014(root: Path) -> None:
    old = [name for name in ("train2014", "val2014", "annotations/instances_train2014.json") if (root / name).exists()]
    if old and not any((root / name).exists() for name in ("train2017", "val2017")):
        what = f"holds {old[0]}: COCO 2014 has the same images in other splits"
        raise UserError(root, what, "choose another --root for COCO 2017")


def main() -> None:
    """Run the command."""
    arguments = read_arguments()
    prepare(arguments.root, arguments.parts, arguments.mirror, arguments.keep)
    code = 0 if arguments.no_check else check(arguments.root, arguments.parts, arguments.cfg)
    print(f"train with data.root={arguments.root}")
    if code == 2:
        sys.exit(code)


if __name__ == "__main__":
    run_command(main)
