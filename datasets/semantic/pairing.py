"""Find the images and label maps of one split, and pair them."""

from collections.abc import Collection
from pathlib import Path

from datasets.files.folders import Names, list_files, normal, split_end
from datasets.files.images import IMAGE_SUFFIXES
from datasets.files.paths import problem_with
from datasets.files.unusable import Unusable
from errors import UserError

LABEL_SUFFIXES = frozenset({".png"})
Paths = dict[str, str]  # by id


def find_images(folder: Path, end: str, key: str, unusable: Unusable) -> Paths:
    """The images below `folder`, by id. end: data.image_suffix. key: the folder's setting, for errors."""
    return _list(folder, *split_end(end, IMAGE_SUFFIXES), "image", key, unusable)


def find_label_maps(folder: Path, end: str, key: str, unusable: Unusable) -> Paths:
    """The label maps below `folder`, by id. end: data.label_suffix. key: the folder's setting, for errors."""
    return _list(folder, *split_end(end, LABEL_SUFFIXES), "annotation", key, unusable)


def _list(folder: Path, end: str, suffixes: Collection[str], kind: str, key: str, unusable: Unusable) -> Paths:
    if problem := problem_with(folder, "folder"):
        what = f"{problem}, which the ADE20K layout needs"
        raise UserError(folder, what, f"check data.root, or set {key} to the folder's path below it")
    paths = list_files(folder, suffixes, end, unusable)
    if not paths:
        what = f"holds no {kind} ({' '.join(f'{end}{suffix}' for suffix in sorted(suffixes))})"
        raise UserError(folder, what, f"put the {kind}s there, or set {key} to the folder that has them")
    return paths


def pair(
    images: Path, image_paths: Paths, labels: Path, label_paths: Paths, key: str, unusable: Unusable
) -> tuple[Names, Names, Names]:
    """The ids that have an image and a label map, sorted, their images and their label maps. Others are `unusable`.

    key: the setting of a list, for errors. Raises UserError if none is left.
    """
    sides = (
        (images, image_paths, labels, label_paths, "annotation"),
        (labels, label_paths, images, image_paths, "image"),
    )
    for folder, paths, other_folder, other_paths, other in sides:
        unpaired = sorted(paths.keys() - other_paths.keys())
        more = unusable.more(len(unpaired) - 1, "the same holds for {} more files")
        for image_id in unpaired:
            what = f"no {other} with this stem in {other_folder}{more}"
            do = f"add the {other} or remove this file, or name the images to use in a file, {key}"
            do += ", or leave such files out with data.on_error=skip"
            if other == "annotation" and (end := _end(image_id, other_paths)):
                do = f"set data.label_suffix={end}.png, or {do}"
            unusable.add(UserError(folder / paths[image_id], what, do))
    ids = sorted(image_paths.keys() & label_paths.keys())
    if not ids:
        raise UserError(images, f"no image has an annotation with its stem in {labels}", "correct the folders or names")
    return Names(ids), Names(image_paths[name] for name in ids), Names(label_paths[name] for name in ids)


def _end(image_id: str, label_paths: Paths) -> str | None:
    """What the names of label maps add to those of images, if there is one for this image."""
    ends = [label_id.removeprefix(image_id) for label_id in label_paths if label_id.startswith(image_id)]
    return next((end for end in sorted(ends) if end[0] in "_-." and end.strip("_-.").isalpha()), None)


def read_names(file: Path, key: str, image_end: str, unusable: Unusable) -> dict[str, int]:
    """Id -> line of every image that the file names, one a line, with or without folders and suffix.

    image_end: data.image_suffix, which may be left out. Names that a line repeats are `unusable`. Raises UserError if
    the file is not readable or names none.
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
            unusable.add(UserError(f"{file} line {number}", what, "list every image once"))
            continue
        names[image_id] = number
    if not names:
        raise UserError(file, "names no image", "write one name a line")
    return names


def select(paths: Paths, names: dict[str, int], file: Path, folder: Path, kind: str, unusable: Unusable) -> Paths:
    """The `paths` that `file` names. Missing ones are `unusable`."""
    missing = [(line, name) for name, line in names.items() if name not in paths]
    more = unusable.more(len(missing) - 1, "and {} more are missing")
    for line, name in missing:
        what = f"names {name}, but {folder} has no such {kind}{more}"
        unusable.add(UserError(f"{file} line {line}", what, "add the file or remove the line"))
    return {name: paths[name] for name in names if name in paths}
