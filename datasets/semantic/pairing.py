"""Find the images and label maps of one split, and pair them."""

from collections.abc import Collection
from pathlib import Path

from datasets.files.folders import list_files, normal, split_end
from datasets.files.images import IMAGE_SUFFIXES
from datasets.files.paths import problem_with
from errors import UserError

LABEL_SUFFIXES = frozenset({".png"})
Paths = dict[str, str]  # by id


def find_images(folder: Path, end: str, key: str) -> Paths:
    """The images below `folder`, by id. end: data.image_suffix. key: the folder's setting, for errors."""
    return _list(folder, *split_end(end, IMAGE_SUFFIXES), "image", key)


def find_label_maps(folder: Path, end: str, key: str) -> Paths:
    """The label maps below `folder`, by id. end: data.label_suffix. key: the folder's setting, for errors."""
    return _list(folder, *split_end(end, LABEL_SUFFIXES), "annotation", key)


def _list(folder: Path, end: str, suffixes: Collection[str], kind: str, key: str) -> Paths:
    if problem := problem_with(folder, "folder"):
        what = f"{problem}, which the ADE20K layout needs"
        raise UserError(folder, what, f"check data.root, or set {key} to the folder's path below it")
    paths = list_files(folder, suffixes, end)
    if not paths:
        what = f"holds no {kind} ({' '.join(f'{end}{suffix}' for suffix in sorted(suffixes))})"
        raise UserError(folder, what, f"put the {kind}s there, or set {key} to the folder that has them")
    return paths


def check_paired(images: Path, image_paths: Paths, labels: Path, label_paths: Paths, key: str) -> None:
    """Raise UserError unless every image has a label map and the other way round. key: the setting of a list."""
    sides = (
        (images, image_paths, labels, label_paths, "annotation"),
        (labels, label_paths, images, image_paths, "image"),
    )
    for folder, paths, other_folder, other_paths, other in sides:
        unpaired = sorted(paths.keys() - other_paths.keys())
        if unpaired:
            more = f" (the same holds for {len(unpaired) - 1} more files)" if len(unpaired) > 1 else ""
            what = f"no {other} with this stem in {other_folder}{more}"
            do = f"add the {other} or remove this file, or name the images to use in a file, {key}"
            if other == "annotation" and (end := _end(unpaired[0], other_paths)):
                do = f"set data.label_suffix={end}.png, or {do}"
            raise UserError(folder / paths[unpaired[0]], what, do)


def _end(image_id: str, label_paths: Paths) -> str | None:
    """What the names of label maps add to those of images, if there is one for this image."""
    ends = [label_id.removeprefix(image_id) for label_id in label_paths if label_id.startswith(image_id)]
    return next((end for end in sorted(ends) if end[0] in "_-." and end.strip("_-.").isalpha()), None)


def read_names(file: Path, key: str, image_end: str) -> dict[str, int]:
    """Id -> line of every image that the file names, one a line, with or without folders and suffix.

    image_end: data.image_suffix, which may be left out. Raises UserError if the file is unusable or names none.
    """
    if problem := problem_with(file, "file"):
        raise UserError(file, problem, f"set {key} to a file that names one image a line")
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(file, f"is not a readable text file ({error})", f"correct it or {key}") from None
    end, suffixes = split_end(image_end, IMAGE_SUFFIXES)
    names: dict[str, int] = {}
    for number, line in enumerate(lines, start=1):
        name = normal(line.strip())
        if not name:
            continue
        suffix = next((suffix for suffix in suffixes if name.lower().endswith(suffix)), "")
        image_id = name[: len(name) - len(suffix)].removesuffix(normal(end)).replace("/", "_")
        if image_id in names:
            what = f"names {name}, as line {names[image_id]} does"
            raise UserError(f"{file} line {number}", what, "list every image once")
        names[image_id] = number
    if not names:
        raise UserError(file, "names no image", "write one name a line")
    return names


def select(paths: Paths, names: dict[str, int], file: Path, folder: Path, kind: str) -> Paths:
    """The `paths` that `file` names. Raises UserError if one is missing."""
    missing = [(line, name) for name, line in names.items() if name not in paths]
    if missing:
        line, name = missing[0]
        more = f" (and {len(missing) - 1} more are missing)" if len(missing) > 1 else ""
        what = f"names {name}, but {folder} has no such {kind}{more}"
        raise UserError(f"{file} line {line}", what, "add the file or remove the line")
    return {name: paths[name] for name in names}
