"""The values of `KEY=VALUE` arguments: what is typed is what is meant.

A number, a boolean, a list or a mapping is read as YAML. Where a setting is a text, a path or a word, the value is
taken exactly as it stands (`data.root=/data/set #2`, `run_name=001`), with two exceptions: `null` (or `~`) where the
setting may be left out, and a value that is in quotes from end to end, which is read without them.
"""

from collections.abc import Sequence
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_origin

from config.plain_yaml import parse_argument
from config.schema import is_record, names
from errors import UserError

NULLS = ("null", "Null", "NULL", "~")


def read_value(text: str, kinds: Sequence[Any] | None, where: str) -> Any:
    """The value that `text` means for a setting of the types `kinds` (see `schema.types_at`).

    [] stands for a key that does not exist, for which any value will do. None: there is no schema, all is YAML.
    Raises UserError, naming `where`, if `text` is no value.
    """
    if not text.strip():
        advice = "write null for none" if kinds and None in kinds else "write one after the ="
        raise UserError(where, "has no value", advice)
    if "\0" in text or not _is_unicode(text):
        raise UserError(where, "holds a character that no text may have", "leave it out")
    if kinds is None or not (not kinds or any(map(_is_text, kinds))):
        return parse_argument(text, where)
    if text.lstrip()[0] in "[{" and any(map(_is_structure, kinds)):
        return parse_argument(text, where)
    try:
        value = parse_argument(text, where)
    except UserError:
        return text
    if value is None and text.strip() not in NULLS:  # such as a lone ---
        return text
    in_quotes = isinstance(value, str) and text.strip()[0] in "'\""
    return value if in_quotes or any(_is_of(value, kind) for kind in kinds) else text


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_text(kind: Any) -> bool:
    """Whether a setting of this type may be a text. A record with a name may be given by its name."""
    words = any(isinstance(value, str) for value in get_args(kind)) if get_origin(kind) is Literal else False
    return kind in (str, Path) or words or bool(names(kind))


def _is_structure(kind: Any) -> bool:
    return is_record(kind) or get_origin(kind) in (dict, tuple, list)


def _is_of(value: Any, kind: Any) -> bool:
    """Whether a value that is no text is of this type."""
    if isinstance(value, str):
        return False
    if get_origin(kind) is Literal:
        return any(type(value) is type(item) and value == item for item in get_args(kind))
    if kind is None or kind is bool:
        return isinstance(value, NoneType if kind is None else bool)
    return kind in (int, float) and type(value) in (int, float)
