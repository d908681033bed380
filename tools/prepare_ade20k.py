"""Fetch, unpack and check ADE20K, scene parsing, 150 classes: `python -m tools.prepare_ade20k --root DIR`.

DIR then holds ADEChallengeData2016, the folder that data.root names. What lies there already is recognised; a download
or an unpacking that was stopped goes on where it was; the archive is removed at the end. Then `tools.check_data` reads
everything; the command ends with exit code 2 if training would stop. Licence of the data: research and education, not
commercial.
"""

import sys
from argparse import Namespace
from pathlib import Path

from config import check_config
from errors import ArgumentParser, read_early, run_command

RECIPE = Path(__file__).parent.parent / "configs/seg_dysample.yaml"


def read_arguments() -> Namespace:
    """The arguments of the command. Raises UserError."""
    parser = ArgumentParser(prog="tools.prepare_ade20k", description=__doc__)
    parser.add_argument("--root", type=Path, default=Path("data"), help="folder for the data (default: %(default)s)")
    parser.add_argument("--mirror", help="fetch NAME.zip from this address instead of the official one")
    parser.add_argument("--keep", action="store_true", help="keep the archive")
    parser.add_argument("--cfg", type=Path, default=RECIPE, help="check the data by this configuration (%(default)s)")
    parser.add_argument("--no-check", action="store_true", help="do not read the data at the end")
    arguments = parser.parse_args()
    check_config(arguments.cfg)
    return arguments


if __name__ == "__main__":  # before the imports below, which take seconds
    read_early(read_arguments)

from downloads.archives import Archive, count_files, obtain
from tools.check_data.text import check_and_print

FOLDER = "ADEChallengeData2016"
ARCHIVE = Archive(
    f"http://data.csail.mit.edu/places/ADEchallenge/{FOLDER}.zip",
    size=965_371_974,
    digest="md5:7328b3957e407ddae1d3cbf487f149ef",
    folders=(f"{FOLDER}/images", f"{FOLDER}/annotations"),
)
FILES = {
    "images/training": 20210,
    "annotations/training": 20210,
    "images/validation": 2000,
    "annotations/validation": 2000,
}
FULL_RELEASE = ("ADE20K_2021_17_01", "ADE20K_2016_07_26")


def prepare(root: Path, mirror: str | None, keep: bool) -> Path:
    """Fetch and unpack what is missing. Returns the folder for data.root. Raises UserError."""
    root = root.parent if root.name == FOLDER else root
    data = root / FOLDER
    counts = {name: count_files(data / name, ".png" if "annotations" in name else ".jpg") for name in FILES}
    if counts == FILES:
        print(f"{data}: complete ({sum(FILES.values()):,} files)")
        return data
    for name in FULL_RELEASE:
        if (root / name).exists() or (root / f"{name}.zip").exists():
            print(
                f"note: {root / name} is the full ADE20K with other labels; the recipes need {FOLDER}, which is fetched"
            )
    print(obtain(ARCHIVE, root, mirror, keep, f"python -m tools.prepare_ade20k --root {root}"))
    return data


def main() -> None:
    """Run the command."""
    arguments = read_arguments()
    data = prepare(arguments.root, arguments.mirror, arguments.keep)
    code = 0 if arguments.no_check else check_and_print(arguments.cfg, data)
    print(f"train with data.root={data}")
    if code == 2:
        sys.exit(code)


if __name__ == "__main__":
    run_command(main)
