"""Read YAML files with inheritance and overrides, validate them, write them. Nothing here is about vision.

A file may name a base file by `base: PATH` (relative to itself). Later sources override earlier ones: defaults of the
records, base, file, `KEY=VALUE` arguments. Mappings merge key by key. A list is replaced as a whole, or one of its
items is changed by its index (`transforms.0.size=[64, 64]`).
If a mapping has another `name` than before, it replaces the old mapping, so that the options of one component never
leak into another. A single word in place of such a mapping is short for `{name: word}` and always replaces it.
"""

import re
import reprlib
import types
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import is_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails

from errors import UserError, suggest


class Schema(BaseModel):
    """Base of all config records: unknown keys are errors, records are immutable, defaults are validated too."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)


Fraction = Annotated[float, Field(ge=0, le=1)]  # 0 to 1
Rate = Annotated[float, Field(ge=0, lt=1)]  # 0 to below 1, for example of dropout


def expand_word(value: Any) -> Any:
    """Turn a single word into a mapping with that name, `{"name": word}`. For a BeforeValidator of a union."""
    return {"name": value} if isinstance(value, str) else value


SchemaType = TypeVar("SchemaType", bound=Schema)

MAX_FILE_BYTES = 128 * 1024  # ten times the largest configuration of this repository
MAX_DEPTH = 50  # levels of nesting in a file, and of bases of bases


class _Short(reprlib.Repr):
    """A `repr` that fits into one line of an error, however long or deep the value is."""

    def __init__(self) -> None:
        super().__init__()
        self.maxstring = self.maxother = 100
        self.maxlevel = 3


_short_repr = _Short().repr


# --- reading ---------------------------------------------------------------------------------------------------------


class _Loader(yaml.SafeLoader):
    """Plain YAML. Refuses duplicate keys, tags, and aliases, which can expand a small file into gigabytes.

    Also refuses YAML 1.1 numbers that are not what they look like: 010 would be 8, and 1:30 would be 90.
    """

    _depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent):
            raise _refusal("aliases are not supported", event)
        if getattr(event, "tag", None) is not None:
            raise _refusal(f"tags are not supported ({event.tag})", event)
        if self._depth == MAX_DEPTH:
            raise _refusal(f"nests deeper than {MAX_DEPTH} levels", event)
        self._depth += 1
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key_node, _ in node.value:
            if not isinstance(key_node, yaml.ScalarNode) or key_node.tag == "tag:yaml.org,2002:merge":
                raise _refusal("keys must be plain words", key_node)
            key = str(self.construct_object(key_node))
            if key in seen:
                raise _refusal(f"key {key_node.value} appears twice", key_node)
            seen.add(key)
        return super().construct_mapping(node, deep=deep)

    def construct_scalar(self, node: yaml.ScalarNode | yaml.MappingNode) -> Any:
        text = node.value if isinstance(node, yaml.ScalarNode) else ""
        if "\0" in text:
            raise _refusal("a NUL character is not possible", node)
        kind = node.tag.rpartition(":")[2]
        if kind in ("int", "float") and (":" in text or re.match(r"[-+]?0[\d_]", text)):
            raise _refusal(f"{text} is not a plain decimal number", node)
        return super().construct_scalar(node)

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        value: int = super().construct_yaml_int(node)
        if abs(value) >= 2**63:
            raise _refusal(f"{_short_repr(value)} is too large", node)
        return value


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)


def _refusal(what: str, place: yaml.Node | yaml.Event) -> yaml.MarkedYAMLError:
    mark: Any = place.start_mark  # the type stubs have two Mark classes; at run time there is one
    return yaml.MarkedYAMLError(problem=what, problem_mark=mark)


def _parse(text: str, where: str) -> Any:
    try:
        return yaml.load(text, Loader=_Loader)  # a SafeLoader
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        line = f" line {mark.line + 1}" if mark else ""
        raise UserError(where + line, error.problem or "is not valid YAML", "correct the file") from None
    except (yaml.YAMLError, ValueError) as error:
        raise UserError(where, f"is not valid YAML ({error})", "correct the file") from None


def _read_file(path: Path, child: Path | None = None) -> dict[str, Any]:
    where = path if child is None else f"{path} (the `base` of {child})"
    try:
        if path.exists() and not path.is_file():
            raise UserError(where, "is a folder or a device", "give a YAML file")
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
        text = data.decode("utf-8-sig")
    except FileNotFoundError:
        raise UserError(where, "no such file", "name an existing YAML file, for example one in configs/") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(where, f"cannot be read ({error})", "give a UTF-8 YAML file") from None
    if len(data) > MAX_FILE_BYTES:
        raise UserError(where, f"is larger than {MAX_FILE_BYTES} bytes", "give a configuration")
    content = _parse(text, str(path))
    if not isinstance(content, dict):
        raise UserError(path, "is not a mapping of keys to values", "write `key: value` lines")
    return content


def _read_with_bases(path: Path, children: tuple[Path, ...] = ()) -> dict[str, Any]:
    try:
        path = path.resolve()
    except (OSError, RuntimeError) as error:  # a circle of symbolic links
        raise UserError(path, f"cannot be read ({error})", "give a UTF-8 YAML file") from None
    if path in children or len(children) == MAX_DEPTH:
        raise UserError(children[0], f"`base` runs in a circle through {path.name}", "remove one `base`")
    content = _read_file(path, *children[-1:])
    base = content.pop("base", None)
    if base is None:
        return content
    if not isinstance(base, str):
        raise UserError(f"{path}: base", "is not a path", "give one path relative to this file")
    merged: dict[str, Any] = merge(_read_with_bases(path.parent / base, (*children, path)), content, f"{path}: ")
    return merged


def merge(old: Any, new: Any, where: str = "") -> Any:
    """Override `old` by `new`, by the rules at the top of this file. Neither argument is changed.

    where: prefix of the keys in error messages. Raises UserError for an index beyond the end of a list.
    """
    if isinstance(old, list) and isinstance(new, dict) and new and all(map(_is_index, new)):
        return _merge_items(old, new, where)
    if isinstance(old, dict) and isinstance(new, str):
        return {"name": new}
    if isinstance(old, str) and isinstance(new, dict):
        old = {"name": old}
    if not isinstance(old, dict) or not isinstance(new, dict):
        return new
    if new.get("name", old.get("name")) != old.get("name"):
        return new
    return {
        **old,
        **{key: merge(old[key], value, f"{where}{key}.") if key in old else value for key, value in new.items()},
    }


def _is_index(key: Any) -> bool:
    return re.fullmatch(r"[0-9]{1,9}", str(key)) is not None


def _merge_items(old: list[Any], new: dict[Any, Any], where: str) -> list[Any]:
    result = list(old)
    for key, value in new.items():
        if int(key) >= len(old):
            advice = f"use 0 to {len(old) - 1}" if old else "give the whole list"
            raise UserError(f"{where}{key}", f"the list has {len(old)} items", advice)
        result[int(key)] = merge(old[int(key)], value, f"{where}{key}.")
    return result


def _override(config: dict[str, Any], argument: str) -> dict[str, Any]:
    dotted, separator, text = argument.partition("=")
    if not separator or not all(dotted.split(".")):
        raise UserError(f"argument {argument}", "is not KEY=VALUE", "write for example model.upsampler=carafe")
    value = _parse(text, f"argument {argument}")
    for key in reversed(dotted.split(".")):
        value = {key: value}
    merged: dict[str, Any] = merge(config, value, "argument ")
    return merged


def read_config(path: Path | str, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Read a YAML file as a mapping, merged with its bases and the `KEY=VALUE` overrides. Raises UserError."""
    return read_overrides(_read_with_bases(Path(path)), overrides)


def read_overrides(config: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Apply `KEY=VALUE` arguments to `config`. The values are read as YAML. Raises UserError."""
    for argument in overrides:
        config = _override(config, argument)
    return config


# --- validating ------------------------------------------------------------------------------------------------------


def validate(schema: type[SchemaType], config: Mapping[str, Any], source: Path | str) -> SchemaType:
    """Make the record that `config` describes. Raises UserError with `source`, the dotted key and the reason."""
    try:
        record = schema.model_validate(config)
    except ValidationError as error:
        # If a required key is misspelt, pydantic also reports it as missing: report the misspelling first.
        problems = sorted(error.errors(include_url=False), key=lambda problem: problem["type"] == "missing")
        key, what, do = _explain(schema, problems[0])
        if len(problems) > 1:
            what += (
                f" (and {len(problems) - 1} more of {', '.join(_explain(schema, item)[0] for item in problems[1:4])})"
            )
        raise UserError(f"{source}: {key}" if key else source, what, do) from None
    # Pydantic accepts `true` as the number 1.
    for key, value in _misread_booleans(config, dump(record)):
        raise UserError(f"{source}: {key}", f"{str(value).lower()} is not possible", "give a number or a word")
    return record


def _misread_booleans(given: Any, validated: Any, key: str = "") -> Iterator[tuple[str, bool]]:
    """Dotted keys and values of booleans that validation turned into something else."""
    if isinstance(given, bool) and not isinstance(validated, bool):
        yield key, given
    items: Iterable[tuple[Any, Any]] = ()
    if isinstance(given, Mapping) and isinstance(validated, Mapping):
        items = given.items()
    elif isinstance(given, list) and isinstance(validated, list):
        items, validated = enumerate(given), dict(enumerate(validated))
    for name, value in items:
        yield from _misread_booleans(value, validated.get(name), f"{key}.{name}" if key else str(name))


def dump(record: Schema) -> dict[str, Any]:
    """The record as plain values, including all defaults."""
    return record.model_dump(mode="json")


def _explain(schema: type[Schema], problem: ErrorDetails) -> tuple[str, str, str]:
    """The dotted key, what is wrong and what to do, for one error of pydantic."""
    keys, parent = _locate(schema, problem["loc"])
    dotted, given = ".".join(keys), problem.get("input")
    kind, context = problem["type"], problem.get("ctx", {})
    if kind in ("extra_forbidden", "unexpected_keyword_argument"):
        return dotted, "unknown key", suggest(keys[-1], _fields(parent))
    if kind == "missing":
        return dotted, "is required", "set it"
    if kind == "union_tag_invalid":
        valid = [tag.strip(" '") for tag in context["expected_tags"].split(",")]
        tag = str(context["tag"])[:100]
        return f"{dotted}.name", f"unknown name {tag}", suggest(tag, valid)
    if kind == "union_tag_not_found":
        return f"{dotted}.name", "is required", f"say which, as in {keys[-1]}: {{name: ...}}"
    if kind == "literal_error":
        valid = [word.strip(" '") for word in context["expected"].replace(" or ", ",").split(",")]
        return dotted, f"{_short_repr(given)} is not possible", suggest(_short_repr(given), valid)
    message = problem["msg"].removeprefix("Value error, ")
    if kind == "value_error":
        what, _, do = message.partition("; ")
        return dotted, what, do or "change it"
    return dotted, f"{_short_repr(given)} is not possible", message[0].lower() + message[1:]


def _locate(schema: Any, location: tuple[int | str, ...]) -> tuple[list[str], Any]:
    """The keys as a user types them, without the union tags that pydantic adds, and the record with the last key."""
    keys: list[str] = []
    owner = node = schema
    for step in location:
        members = _members(node)
        chosen = [member for member in members if step in _names(member)]
        if chosen and step not in _fields(members[0] if len(members) == 1 else None):
            node = chosen[0]
            continue
        keys.append(str(step))
        owner, node = node, _child(members[0], step) if members else None
    return keys, owner


def _members(annotation: Any) -> list[Any]:
    """The record types, or lists of them, that an annotation allows."""
    if get_origin(annotation) is Annotated:
        return _members(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        return [member for part in get_args(annotation) for member in _members(part)]
    return [] if annotation in (None, type(None)) else [annotation]


def _names(record: Any) -> tuple[Any, ...]:
    """The values of a record's `name`, by which a union selects this record."""
    annotation = _hints(record).get("name")
    return get_args(annotation) if get_origin(annotation) is Literal else ()


def _hints(record: Any) -> dict[str, Any]:
    if isinstance(record, type) and (issubclass(record, BaseModel) or is_dataclass(record)):
        return get_type_hints(record, include_extras=True)
    return {}


def _fields(record: Any) -> list[str]:
    return [name for name in _hints(record) if not name.startswith("_") and name != "model_config"]


def _child(record: Any, step: int | str) -> Any:
    if isinstance(step, int):
        return next(iter(get_args(record)), None)
    return _hints(record).get(step)
