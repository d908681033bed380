"""Make records of raw configurations, and say what is wrong with those that do not fit."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from config.plain_yaml import short_repr
from config.reading import origin
from config.schema import Schema, children, fields, is_record, item_at, members, names
from errors import UserError, suggest

SchemaType = TypeVar("SchemaType", bound=Schema)

# Where pydantic speaks of Python's types: what to do in the words of YAML.
ADVICE = {
    "tuple_type": "write a list, for example [a, b]",
    "list_type": "write a list, for example [a, b]",
    "dict_type": "write a mapping, {KEY: VALUE}",
    "model_type": "write a mapping, {KEY: VALUE}",
    "model_attributes_type": "write a mapping, {KEY: VALUE}",
    "dataclass_type": "write a mapping, {KEY: VALUE}",
}


def validate(schema: type[SchemaType], config: Mapping[str, Any], source: Path | str) -> SchemaType:
    """Make the record that `config` describes.

    Raises UserError with the dotted key, the reason, and the file or argument that set the key (if `config` is a
    `Config`, which knows) or else `source`.
    """
    try:
        record = schema.model_validate(config)
    except ValidationError as error:
        # If a required key is misspelt, pydantic also reports it as missing: report the misspelling first.
        problems = sorted(error.errors(include_url=False), key=lambda problem: problem["type"] == "missing")
        key, what, do = _explain(schema, problems[0], config)
        if len(problems) > 1:
            more = ", ".join(_explain(schema, item, config)[0] for item in problems[1:4])
            what += f" (and {len(problems) - 1} more of {more})"
        where = origin(config, key, source)
        raise UserError(f"{where}: {key}" if key else where, what, do) from None
    # Pydantic accepts `true` as the number 1.
    for key, value in _misread_booleans(config, dump(record)):
        where = origin(config, key, source)
        raise UserError(f"{where}: {key}", f"{str(value).lower()} is not possible", "give a number or a word")
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


def _explain(schema: type[Schema], problem: ErrorDetails, config: Mapping[str, Any]) -> tuple[str, str, str]:
    """The dotted key, what is wrong and what to do, for one error of pydantic."""
    keys, parent = _locate(schema, problem["loc"])
    dotted, given = ".".join(keys), problem.get("input")
    kind, context = problem["type"], problem.get("ctx", {})
    if kind in ("extra_forbidden", "unexpected_keyword_argument"):
        elsewhere = _place_of(keys[-1], schema, config)
        return dotted, "unknown key", f"did you mean {elsewhere}?" if elsewhere else suggest(keys[-1], fields(parent))
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
        return dotted, f"{short_repr(given)} is not possible", suggest(short_repr(given), valid)
    if kind in ("string_type", "path_type"):
        return dotted, *_not_a_text(given)
    message = problem["msg"].removeprefix("Value error, ")
    if kind == "value_error":
        what, _, do = message.partition("; ")
        return dotted, what, do or "change it"
    return dotted, f"{short_repr(given)} is not possible", ADVICE.get(kind, message[0].lower() + message[1:])


def _place_of(name: str, schema: type[Schema], config: Mapping[str, Any]) -> str | None:
    """The dotted key of that name that is nearest to the root, in the components that `config` has, if there is one."""
    records: list[tuple[tuple[str, ...], Any, Any]] = [((), schema, config)]
    for path, record, part in records:  # which grows
        if name in fields(record):
            return ".".join((*path, name))
        for field in fields(record):
            kinds, value = [kind for kind in children(record, field) if is_record(kind)], item_at(part, field)
            chosen = value.get("name") if isinstance(value, Mapping) else value
            kinds = [kind for kind in kinds if chosen in names(kind)] or (kinds if len(kinds) == 1 else [])
            records += [((*path, field), kind, value) for kind in kinds if len(path) < 2]
    return None


def _not_a_text(given: Any) -> tuple[str, str]:
    """What is wrong and what to do if a text is expected and YAML read something else."""
    if isinstance(given, bool):
        return f"is read as {str(given).lower()}, not as a text", f"put it in quotes, for example '{_word(given)}'"
    if isinstance(given, int | float):
        return f"is read as the number {given}, not as a text", f"put it in quotes, for example '{given}'"
    return f"{'null' if given is None else short_repr(given)} is not possible", "write a text"


def _word(given: bool) -> str:
    return "yes" if given else "no"


def _locate(schema: Any, location: tuple[int | str, ...]) -> tuple[list[str], Any]:
    """The keys as a user types them, without the union tags that pydantic adds, and the record with the last key."""
    keys: list[str] = []
    owner: Any = None
    kinds = members(schema)
    for step in location:
        kinds = [kind for kind in kinds if kind is not None]
        chosen = [kind for kind in kinds if step in names(kind)]
        if chosen and step not in fields(kinds[0] if len(kinds) == 1 else None):
            kinds = chosen
            continue
        if step == "[key]":  # what is wrong is the key itself
            continue
        keys.append(str(step))
        owner = kinds[0] if kinds else None
        kinds = children(owner, step)
    return keys, owner
