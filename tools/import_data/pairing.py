"""Pair images with files of the same size: label maps or depth maps, in any of the usual trees.

Two files are a pair if their paths are alike once the words for images and labels are taken out: `images/train/a.jpg`
and `labels/train/a.png`, `train/images/a.jpg` and `train/masks/a_mask.png`, `train/a.png` and `train_labels/a_L.png`.
"""

import re
from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import PurePosixPath

from datasets.files.folders import normal
from datasets.files.images import IMAGE_SUFFIXES
from errors import UserError
from tools.import_data.options import Options
from tools.import_data.source_files import walk

IMAGE_WORDS = frozenset(
    [
        "images",
        "image",
        "imgs",
        "img",
        "rgb",
        "color",
        "colour",
        "photos",
        "photo",
        "jpegimages",
        "leftimg8bit",
        "pictures",
        "inputs",
        "input",
    ]
)
LABEL_WORDS = frozenset(
    [
        "labels",
        "label",
        "masks",
        "mask",
        "annotations",
        "annotation",
        "annots",
        "annot",
        "gt",
        "gtfine",
        "gtcoarse",
        "segmentationclass",
        "segmentationclassraw",
        "seg",
        "segmentation",
        "segmentations",
        "ground_truth",
        "groundtruth",
        "targets",
        "target",
        "indexlabel",
    ]
)
DEPTH_WORDS = frozenset(
    ["depth", "depths", "depth_map", "depth_maps", "depthmap", "depthmaps", "gt", "groundtruth", "dense", "proj_depth"]
)


def find_pairs(
    options: Options, words: Collection[str], suffixes: Collection[str], image_end: str, label_end: str
) -> tuple[list[tuple[str, str]], str]:
    """Images and their label files, by their paths below the source, sorted, and the end of the latter's stems.

    Others are dropped.

    words: names of folders of labels. suffixes: of label files, lower case. image_end, label_end: how the stems end;
    "": found out. Raises UserError if there is no pair.
    """
    files = [path for path in walk(options.root) if PurePosixPath(path).suffix.lower() in {*IMAGE_SUFFIXES, *suffixes}]
    labels = [path for path in files if _is_label(options, path, words, label_end)]
    chosen = set(labels)
    images = [path for path in files if path not in chosen and PurePosixPath(path).suffix.lower() in IMAGE_SUFFIXES]
    labels = [path for path in labels if PurePosixPath(path).suffix.lower() in suffixes]
    if image_end:
        images = [path for path in images if _stem(path).endswith(_stem_end(image_end))]
    if label_end:
        labels = [path for path in labels if _stem(path).endswith(_stem_end(label_end))]
    image_keys = {_key(path, IMAGE_WORDS, _stem_end(image_end)): path for path in images}
    end = _stem_end(label_end) or _common_end(labels, words, image_keys.keys())
    pairs = []
    for label in labels:
        image = image_keys.pop(_key(label, words, end), None)
        if image is None:
            options.report.drop("label file without image", label)
        else:
            pairs.append((image, label))
    for image in image_keys.values():
        options.report.drop("image without label file", image)
    if not pairs:
        what = f"no image has a label file ({len(images)} images and {len(labels)} label files were found)"
        do = (
            "name the folders with --images and --labels, and how file names end with --image-suffix and --label-suffix"
        )
        raise UserError(options.source, what, do)
    return sorted(pairs), end


def _is_label(options: Options, path: str, words: Collection[str], end: str) -> bool:
    if options.labels_root is not None:
        return (options.root / path).is_relative_to(options.labels_root)
    if options.image_root is not None and (options.root / path).is_relative_to(options.image_root):
        return False
    folders = PurePosixPath(path).parts[:-1]
    if any(_is_word(part, words) for part in folders):
        return True
    if end:
        return _stem(path).endswith(_stem_end(end))
    has_images = any(_is_word(part, IMAGE_WORDS) for part in folders)
    return not has_images and re.search(r"[_-](mask|label|labels|seg|gt|depth|L)$", _stem(path)) is not None


def _is_word(part: str, words: Collection[str]) -> bool:
    """Whether a folder's name is one of the words, perhaps after a split's name: `train_labels`, `trainannot`."""
    word = re.sub(r"^(train|val|valid|test)(ing|idation)?[_-]?", "", part.lower())
    return word in words or part.lower() in words


def _stem(path: str) -> str:
    return PurePosixPath(normal(path)).stem


def _stem_end(end: str) -> str:
    return re.sub(r"\.[A-Za-z0-9]{2,4}$", "", end)


def _key(path: str, words: Collection[str], end: str) -> str:
    pure = PurePosixPath(normal(path))
    folders = []
    for part in pure.parts[:-1]:
        word = re.match(r"(?i)^(train|val|valid|test)(ing|idation)?[_-]?(?=.)", part)
        if _is_word(part, words):
            folders += [word[0].rstrip("_-").lower()] if word and part.lower() not in words else []
        else:
            folders.append(part.lower())
    return "/".join([*folders, pure.stem.removesuffix(end)])


def _common_end(labels: Sequence[str], words: Collection[str], image_keys: Collection[str]) -> str:
    """What the names of most label files add to those of their images; "": nothing."""
    by_folder: dict[str, set[str]] = {}
    for key in image_keys:
        folder, _, stem = key.rpartition("/")
        by_folder.setdefault(folder, set()).add(stem)
    ends: Counter[str] = Counter()
    for label in labels:
        folder, _, stem = _key(label, words, "").rpartition("/")
        stems = by_folder.get(folder, set())
        cuts = [stem[:length] for length in range(len(stem), 0, -1)]
        found = next((cut for cut in cuts if cut in stems and (cut == stem or stem[len(cut)] in "_-.")), None)
        if found is not None:
            ends[stem.removeprefix(found)] += 1
    return ends.most_common(1)[0][0] if ends else ""
