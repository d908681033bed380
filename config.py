"""Leaf: read a YAML file, inherit, override, validate, dump. Knows no vision.

A file may name another by `base: PATH` (relative to itself). Order: record defaults, base, file, `KEY=VALUE` arguments.
Mappings merge key by key; lists are replaced, or changed in one item by its number (`transforms.0.size=[64, 64]`).
A changed `name` starts its mapping afresh, so that the options of one component never leak into another. A word where a
mapping with a `name` is meant is short for `{name: word}`, and always starts afresh.
"""

import types
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import is_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from errors import UserError, suggest


class Schema(BaseModel):
    """Base of every config record: unknown keys are errors, records do not change, defaults are checked too."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)


SchemaType = TypeVar("SchemaType", bound=Schema)


# --- reading ---------------------------------------------------------------------------------------------------------


class _Loader(yaml.SafeLoader):
    """Plain YAML without duplicate keys and without aliases, which can expand a small file into gigabytes."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.constructor.ConstructorError(
                None, None, "aliases are not supported", self.peek_event().start_mark
            )
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key_node, _ in node.value:
            if not isinstance(key_node, yaml.ScalarNode) or key_node.tag == "tag:yaml.org,2002:merge":
                raise yaml.constructor.ConstructorError(None, None, "keys must be plain words", key_node.start_mark)
            if key_node.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"key {key_node.value} appears twice", key_node.start_mark
                )
            seen.add(key_node.value)
        return super().construct_mapping(node, deep=deep)


def _parse(text: str, where: str) -> Any:
    try:
        return yaml.load(text, Loader=_Loader)  # a SafeLoader
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        line = f" line {mark.line + 1}" if mark else ""
        raise UserError(where + line, error.problem or "is not valid YAML", "correct the file") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UserError(where, f"is not valid YAML ({error})", "correct the file") from None


def _read_file(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise UserError(path, "no such file", "name an existing YAML file, for example one in configs/") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(path, f"cannot be read ({error})", "give a UTF-8 YAML file") from None
    content = _parse(text, str(path))
    if not isinstance(content, dict):
        raise UserError(path, "is not a mapping of keys to values", "write `key: value` lines")
    return content


def _read_with_bases(path: Path, children: tuple[Path, ...] = ()) -> dict[str, Any]:
    path = path.resolve()
    if path in children:
        raise UserError(children[0], f"`base` runs in a circle through {path.name}", "remove one `base`")
    content = _read_file(path)
    base = content.pop("base", None)
    if base is None:
        return content
    if not isinstance(base, str):
        raise UserError(f"{path}: base", "is not a path", "give one path relative to this file")
    merged: dict[str, Any] = merge(_read_with_bases(path.parent / base, (*children, path)), content)
    return merged


def merge(old: Any, new: Any) -> Any:
    """`old` overridden by `new`, by the rules at the top of this file. Neither argument changes."""
    if isinstance(old, list) and isinstance(new, dict) and all(str(key).isdigit() for key in new):
        return _merge_items(old, new)
    if isinstance(old, dict) and isinstance(new, str):
        return {"name": new}
    if isinstance(old, str) and isinstance(new, dict):
        old = {"name": old}
    if not isinstance(old, dict) or not isinstance(new, dict):
        return new
    if new.get("name", old.get("name")) != old.get("name"):
        return new
    return {**old, **{key: merge(old[key], value) if key in old else value for key, value in new.items()}}


def _merge_items(old: list[Any], new: dict[Any, Any]) -> list[Any]:
    result = list(old)
    for key, value in new.items():
        if int(key) >= len(old):
            raise UserError(f"list item {key}", f"the list has {len(old)} items", f"use 0 to {len(old) - 1}")
        result[int(key)] = merge(old[int(key)], value)
    return result


def _override(config: dict[str, Any], argument: str) -> dict[str, Any]:
    dotted, separator, text = argument.partition("=")
    if not separator or not all(dotted.split(".")):
        raise UserError(f"argument {argument}", "is not KEY=VALUE", "write for example model.upsampler=carafe")
    value = _parse(text, f"argument {argument}")
    for key in reversed(dotted.split(".")):
        value = {key: value}
    merged: dict[str, Any] = merge(config, value)
    return merged


def read_config(path: Path | str, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """The raw mapping of a YAML file, with its bases below it and the `KEY=VALUE` overrides on top."""
    return read_overrides(_read_with_bases(Path(path)), overrides)


def read_overrides(config: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """`config` with `KEY=VALUE` arguments applied, values read as YAML."""
    for argument in overrides:
        config = _override(config, argument)
    return config


# --- validating ------------------------------------------------------------------------------------------------------


def validate(schema: type[SchemaType], config: Mapping[str, Any], source: Path | str) -> SchemaType:
    """The record that `config` describes, or a `UserError` naming `source`, the dotted key and the reason."""
    try:
        record = schema.model_validate(config)
    except ValidationError as error:
        # A misspelt key is also a missing one: name the misspelling first.
        problems = sorted(error.errors(include_url=False), key=lambda problem: problem["type"] == "missing")
        key, what, do = _explain(schema, problems[0])
        if len(problems) > 1:
            what += (
                f" (and {len(problems) - 1} more of {', '.join(_explain(schema, item)[0] for item in problems[1:4])})"
            )
        raise UserError(f"{source}: {key}" if key else source, what, do) from None
    # Pydantic takes `true` for 1 where a number is meant.
    for key, value in _booleans(config, dump(record)):
        raise UserError(f"{source}: {key}", f"{str(value).lower()} is not possible", "give a number or a word")
    return record


def _booleans(given: Any, understood: Any, key: str = "") -> Iterator[tuple[str, bool]]:
    """Dotted keys and values of what was given as true or false but understood as something else."""
    if isinstance(given, bool) and not isinstance(understood, bool):
        yield key, given
    items: Iterable[tuple[Any, Any]] = ()
    if isinstance(given, Mapping) and isinstance(understood, Mapping):
        items = given.items()
    elif isinstance(given, list) and isinstance(understood, list):
        items, understood = enumerate(given), dict(enumerate(understood))
    for name, value in items:
        yield from _booleans(value, understood.get(name), f"{key}.{name}" if key else str(name))


def dump(record: Schema) -> dict[str, Any]:
    """The record as plain values, every default spelled out."""
    return record.model_dump(mode="json")


def dump_yaml(record: Schema) -> str:
    """The record as a YAML file that `read_config` reads back."""
    return yaml.safe_dump(dump(record), sort_keys=False)


def _explain(schema: type[Schema], problem: ErrorDetails) -> tuple[str, str, str]:
    """Dotted key, what is wrong, what to do, of one pydantic problem."""
    keys, parent = _locate(schema, problem["loc"])
    dotted, given = ".".join(keys), problem.get("input")
    kind, context = problem["type"], problem.get("ctx", {})
    if kind in ("extra_forbidden", "unexpected_keyword_argument"):
        return dotted, "unknown key", suggest(keys[-1], _fields(parent))
    if kind == "missing":
        return dotted, "is required", "set it"
    if kind == "union_tag_invalid":
        valid = [tag.strip(" '") for tag in context["expected_tags"].split(",")]
        return f"{dotted}.name", f"unknown name {context['tag']}", suggest(str(context["tag"]), valid)
    if kind == "union_tag_not_found":
        return f"{dotted}.name", "is required", f"say which, as in {keys[-1]}: {{name: ...}}"
    if kind == "literal_error":
        valid = [word.strip(" '") for word in context["expected"].replace(" or ", ",").split(",")]
        return dotted, f"{given!r} is not possible", suggest(str(given), valid)
    message = problem["msg"].removeprefix("Value error, ")
    if kind == "value_error":
        what, _, do = message.partition("; ")
        return dotted, what, do or "change it"
    return dotted, f"{given!r} is not possible", message[0].lower() + message[1:]


def _locate(schema: Any, location: tuple[int | str, ...]) -> tuple[list[str], Any]:
    """The keys that a user would type, without the tags that pydantic adds for unions, and the last key's owner."""
    keys: list[str] = []
    owner = node = schema
    for step in location:
        members = _members(node)
        chosen = [member for member in members if step in _names(member)]
        if chosen and step not in _fields(members[0] if len(members) == 1 else None):
            node = chosen[0]
            continue
        keys.append(str(step))
        owner, node = node, _below(members[0], step) if members else None
    return keys, owner


def _members(annotation: Any) -> list[Any]:
    """The record types, or lists of them, that an annotation admits."""
    if get_origin(annotation) is Annotated:
        return _members(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        return [member for part in get_args(annotation) for member in _members(part)]
    return [] if annotation in (None, type(None)) else [annotation]


def _names(record: Any) -> tuple[Any, ...]:
    """The values of a record's `name`, by which unions choose it."""
    annotation = _hints(record).get("name")
    return get_args(annotation) if get_origin(annotation) is Literal else ()


def _hints(record: Any) -> dict[str, Any]:
    if isinstance(record, type) and (issubclass(record, BaseModel) or is_dataclass(record)):
        return get_type_hints(record, include_extras=True)
    return {}


def _fields(record: Any) -> list[str]:
    return [name for name in _hints(record) if not name.startswith("_") and name != "model_config"]


def _below(record: Any, step: int | str) -> Any:
    if isinstance(step, int):
        return next(iter(get_args(record)), None)
    return _hints(record).get(step)
