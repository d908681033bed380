"""The categories of a COCO file and the classes of the data: compare them, read the latter from the former."""

import math
import re
import shlex
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml

from config import Schema
from datasets.coco.json_file import AnnotationFile, OtherCategory
from datasets.coco.values import id_number
from datasets.files.paths import problem_with, resolve_path
from errors import UserError

Category = TypeVar("Category")  # its name, or a record with a `name`
Advice = Callable[[AnnotationFile, Mapping[int, Any]], str]  # what to do if a file's categories do not fit
LONGEST_ADVICE = 400  # characters; longer ones would not fit into the line of an error
NAMES_SHOWN = 3


def name_of(category: Any) -> str:
    """The name of a category, which is a string or a record."""
    return str(getattr(category, "name", category))


def some_names(names: Iterable[str]) -> str:
    """The first names of a list, and how many more there are."""
    first = list(names)
    more = f" and {len(first) - NAMES_SHOWN} more" if len(first) > NAMES_SHOWN else ""
    return ", ".join(first[:NAMES_SHOWN]) + more


# --- comparing -------------------------------------------------------------------------------------------------------


def check_classes(
    file: AnnotationFile,
    categories: Mapping[int, Category],
    classes: Mapping[int, Category],
    advice: Advice,
    classes_name: str = "data.classes",
) -> dict[int, str]:
    """The names of the categories that are not in `classes`, by id. Their annotations are to be left out.

    classes_name: what errors call `classes`. Raises UserError if a category has another value in `classes`, or if
    `classes` has none of the categories.
    """
    wrong = [number for number in categories if number in classes and classes[number] != categories[number]]
    if categories and not wrong and not categories.keys() & classes.keys():
        wrong = list(categories)
    if wrong:
        first = wrong[0]
        what = f"category {first} is called {categories[first]} here but "
        what += f"{classes[first]} in {classes_name}" if first in classes else f"is not in {classes_name}"
        what += f" (and {len(wrong) - 1} more differ)" if len(wrong) > 1 else ""
        raise UserError(file.path, what, advice(file, categories))
    return {number: name_of(value) for number, value in categories.items() if number not in classes}


def count_others(
    file: AnnotationFile, others: Mapping[int, str], counts: Counter[int], classes: Mapping[int, Category]
) -> tuple[OtherCategory, ...]:
    """The categories that are not in `classes`, with the number of their annotations.

    Raises UserError if one that has annotations is called like a class: the file has another id for that class.
    """
    ids = {name_of(value): number for number, value in classes.items()}
    for number, name in others.items():
        if counts[number] and name in ids:
            what = f"category {number} is called {name} here, but category {ids[name]} is called {name} in data.classes"
            raise UserError(file.path, what, "give it one id everywhere, or another name in the file")
    return tuple(OtherCategory(number, name, counts[number]) for number, name in others.items())


# --- reading ---------------------------------------------------------------------------------------------------------


def distinct(file: AnnotationFile, categories: Mapping[int, Category]) -> dict[int, Category]:
    """Those categories that can be classes: of several with one name, the one that is annotated.

    Roboflow adds a category 0, which nothing has, and which may have the name of a class. If none of them is annotated,
    the last stays. Raises UserError if two are.
    """
    by_name: dict[str, list[int]] = {}
    for number, value in categories.items():
        by_name.setdefault(name_of(value), []).append(number)
    if len(by_name) == len(categories):
        return dict(categories)
    used = _used_categories(file)
    unused: set[int] = set()
    for name, numbers in by_name.items():
        annotated = [number for number in numbers if number in used]
        if len(annotated) > 1:
            what = f"categories {' and '.join(map(str, annotated))} are both called {name}, and both have annotations"
            raise UserError(file.path, what, "give every category its own name in the file")
        unused |= set(numbers) - set(annotated or numbers[-1:])
    return {number: value for number, value in categories.items() if number not in unused}


def _used_categories(file: AnnotationFile) -> set[int | None]:
    """The ids of all categories that some annotation has, or a segment of one."""
    used = set()
    for record in file.annotations():
        segments = record.get("segments_info") if isinstance(record, dict) else None
        for entry in [record, *(segments if isinstance(segments, list) else ())]:
            if isinstance(entry, dict):
                used.add(id_number(entry.get("category_id")))
    return used


def file_with_classes(values: Any, official: str) -> Path | None:
    """The file to read the classes from: train_annotations of a raw data configuration, if not the `official` file.

    None if it is the official file, or if the classes are set. Raises UserError if the file is missing.
    """
    if not isinstance(values, dict) or values.get("classes") is not None:
        return None
    root, file = values.get("root"), values.get("train_annotations", official)
    if not isinstance(root, str | Path) or not isinstance(file, str) or file == official:
        return None
    path = resolve_path(Path(root), file)
    if problem := problem_with(path, "file"):
        what = f"{problem}; the classes would be read from it"
        raise UserError(path, what, "correct data.train_annotations (or data.root), or list data.classes")
    return path


# --- advice ----------------------------------------------------------------------------------------------------------


def advice_on_classes(split: Literal["train", "val"], own_file: bool) -> Advice:
    """The advice for the file of a split.

    own_file: whether data.classes=null stands for the categories of the training file, not for the official ones.
    """
    if split == "val":
        return advice_for_validation
    return advice_to_read_classes if own_file else advice_to_set_classes


def advice_to_set_classes(file: AnnotationFile, categories: Mapping[int, Any]) -> str:
    """Set data.classes to these values. The settings are at the end of the line, and can be pasted into a shell."""
    return f"name another file, or set {_settings(file, categories)}"


def advice_to_read_classes(file: AnnotationFile, categories: Mapping[int, Any]) -> str:
    """Have data.classes read from the training file."""
    return "name another file, or take the categories of data.train_annotations with data.classes=null"


def advice_for_validation(file: AnnotationFile, categories: Mapping[int, Any]) -> str:
    """Other values would not fit the training file, but that does not matter to those who score alone."""
    return f"give both splits the same ids and names; to score this file alone, set {_settings(file, categories)}"


def _settings(file: AnnotationFile, categories: Mapping[int, Any]) -> str:
    text = _flow({number: categories[number] for number in sorted(distinct(file, categories))})
    # Mappings merge, so classes that are set already must go first.
    settings = f"data.classes=null {shlex.quote(f'data.classes={text}')}"
    return settings if len(settings) < LONGEST_ADVICE else "data.classes to the file's ids and names"


def _flow(value: Any) -> str:
    """A mapping, record, string or boolean as YAML in one line of printable characters, double quotes where needed."""
    if isinstance(value, Schema):
        return _flow(value.model_dump())
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{key}: {_flow(item)}' for key, item in value.items())}}}"
    in_list: str = yaml.safe_dump([value], default_flow_style=True, width=math.inf, allow_unicode=True)
    text = in_list.strip()[1:-1]
    if isinstance(value, str) and (text[0] in "'\"" or not value.isprintable() or re.search(r"\s\s", value)):
        quoted: str = yaml.safe_dump(value, default_style='"', width=math.inf, allow_unicode=value.isprintable())
        text = re.sub(" (?= )", r"\\x20", quoted.strip())
    return text
