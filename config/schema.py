"""The base of all config records, and what a dotted key stands for in a tree of records."""

import re
import types
from collections.abc import Mapping, Sequence
from dataclasses import is_dataclass
from functools import cache
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel, ConfigDict, Field


class Schema(BaseModel):
    """Base of all config records: unknown keys are errors, records are immutable, defaults are validated too."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)


Fraction = Annotated[float, Field(ge=0, le=1)]  # 0 to 1
Rate = Annotated[float, Field(ge=0, lt=1)]  # 0 to below 1, for example of dropout


def expand_word(value: Any) -> Any:
    """Turn a single word into a mapping with that name, `{"name": word}`. For a BeforeValidator of a union."""
    return {"name": value} if isinstance(value, str) else value


def types_at(schema: Any, config: Any, keys: Sequence[str]) -> list[Any]:
    """The types that a dotted key may have in `schema`: records, lists, mappings, literals, plain types and None.

    Where several records are possible, the `name` in `config` chooses; without one all of them count.
    Returns [] if there is no such key.
    """
    kinds = members(schema)
    for key in keys:
        name = config.get("name") if isinstance(config, Mapping) else config
        chosen = [kind for kind in kinds if isinstance(name, str) and name in names(kind)] or kinds
        kinds = [member for kind in chosen for member in children(kind, key)]
        config = item_at(config, key)
    return kinds


def item_at(config: Any, key: str) -> Any:
    """What a raw configuration has under a key, which may be the index of a list; None if there is nothing."""
    if isinstance(config, Mapping):
        return next((value for name, value in config.items() if str(name) == key), None)
    if isinstance(config, list) and is_index(key) and int(key) < len(config):
        return config[int(key)]
    return None


def is_index(key: Any) -> bool:
    """Whether a key may be the index of a list. Longer numbers are not, and Python refuses to read very long ones."""
    return re.fullmatch(r"[0-9]{1,9}", str(key)) is not None


def members(annotation: Any) -> list[Any]:
    """The types of a union, or the one type that an annotation is. None stands for `null`."""
    if get_origin(annotation) is Annotated:
        return members(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        return [member for part in get_args(annotation) for member in members(part)]
    return [None if annotation is type(None) else annotation]


def is_record(kind: Any) -> bool:
    """Whether a type is a config record."""
    return isinstance(kind, type) and (issubclass(kind, BaseModel) or is_dataclass(kind))


def names(record: Any) -> tuple[Any, ...]:
    """The values of a record's `name`, by which a union selects this record."""
    annotation = _hints(record).get("name")
    return get_args(annotation) if get_origin(annotation) is Literal else ()


def fields(record: Any) -> list[str]:
    """The keys of a record."""
    return [name for name in _hints(record) if not name.startswith("_") and name != "model_config"]


def children(kind: Any, step: int | str) -> list[Any]:
    """The types of a field of a record, of an item of a list or of a value of a mapping; [] if there is none."""
    if get_origin(kind) in (tuple, list):
        return members(get_args(kind)[0])
    if get_origin(kind) is dict:
        return members(get_args(kind)[1])
    return members(_hints(kind)[str(step)]) if str(step) in fields(kind) else []


@cache
def _hints(record: Any) -> dict[str, Any]:
    return get_type_hints(record, include_extras=True) if is_record(record) else {}
