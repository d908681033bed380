"""Read YAML files with bases and `KEY=VALUE` arguments, and remember which of them set what.

A file may name a base file by `base: PATH` (relative to itself). Later layers override earlier ones: base, file,
arguments. Mappings merge key by key. A list is replaced as a whole, or one of its items is changed by its index
(`transforms.0.size=[64, 64]`); in arguments also by its name, if no other item has it (`transforms.pad.size=[64, 64]`).
If a mapping has another `name` than before, it replaces the old mapping, so that the options of one component never
leak into another. A single word in place of such a mapping is short for `{name: word}` and always replaces it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from config.arguments import read_value
from config.plain_yaml import MAX_DEPTH, parse_file
from config.schema import Schema, is_index, item_at, types_at
from errors import UserError

MAX_FILE_BYTES = 128 * 1024  # ten times the largest configuration of this repository
NOTHING = object()


@dataclass(frozen=True)
class Layer:
    """What one file or one argument sets. source: how errors name it; None: as `origin` is told."""

    source: str | None
    values: Mapping[str, Any]
    is_argument: bool = False


class Config(dict[str, Any]):
    """A raw configuration, merged from layers; the last of them counts most."""

    def __init__(self, values: Mapping[str, Any], layers: Sequence[Layer] = ()) -> None:
        super().__init__(values)
        self.layers = tuple(layers)

    def add(self, layer: Layer) -> "Config":
        """The configuration with one more layer. Raises UserError for an index beyond the end of a list."""
        return Config(merge(dict(self), dict(layer.values), f"{layer.source}: "), (*self.layers, layer))


def origin(config: Mapping[str, Any], key: str, source: Path | str) -> str:
    """The file or argument to which an error of a dotted key belongs.

    If arguments set only parts of what is under the key, these are named, too: the error may be in how they fit.
    source: what to name for a key that no layer sets.
    """
    parts: list[str] = []
    found: Path | str = ""
    for layer in reversed(config.layers if isinstance(config, Config) else ()):
        value = _set_by(layer, key)
        if value is NOTHING:
            continue
        if layer.is_argument and isinstance(value, Mapping):
            parts.insert(0, str(layer.source))
            continue
        found = layer.source or source
        break
    if parts and found:
        return f"{found} with {', '.join(parts)}"
    return ", ".join(parts) or str(found or source)


def _set_by(layer: Layer, key: str) -> Any:
    """What a layer sets for a dotted key: its value there, or the value that stands in place of the whole."""
    value: Any = layer.values
    for step in key.split(".") if key else ():
        if not isinstance(value, Mapping):
            break
        # An argument that chooses a component by name also answers for what is missing there.
        missing = value["name"] if layer.is_argument and "name" in value else NOTHING
        value = next((item for name, item in value.items() if str(name) == step), missing)
    return value


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
    content = parse_file(text, str(path))
    if not isinstance(content, dict):
        raise UserError(path, "is not a mapping of keys to values", "write `key: value` lines")
    return content


def _read_layers(path: Path, children: tuple[Path, ...] = ()) -> list[Layer]:
    """The layers of a file and its bases, the farthest base first."""
    source = str(path)
    try:
        path = path.resolve()
    except (OSError, RuntimeError) as error:  # a circle of symbolic links
        raise UserError(path, f"cannot be read ({error})", "give a UTF-8 YAML file") from None
    if path in children or len(children) == MAX_DEPTH:
        raise UserError(children[0], f"`base` runs in a circle through {path.name}", "remove one `base`")
    content = _read_file(path, *children[-1:])
    base = content.pop("base", None)
    if base is None:
        return [Layer(source, content)]
    if not isinstance(base, str):
        raise UserError(f"{path}: base", "is not a path", "give one path relative to this file")
    return [*_read_layers(path.parent / base, (*children, path)), Layer(source, content)]


def merge(old: Any, new: Any, where: str = "") -> Any:
    """Override `old` by `new`, by the rules at the top of this file. Neither argument is changed.

    where: prefix of the keys in error messages. Raises UserError for an index beyond the end of a list.
    """
    if isinstance(old, list) and isinstance(new, dict) and new and all(map(is_index, new)):
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


def _merge_items(old: list[Any], new: dict[Any, Any], where: str) -> list[Any]:
    result = list(old)
    for key, value in new.items():
        if int(key) >= len(old):
            advice = f"use 0 to {len(old) - 1}" if old else "give the whole list"
            raise UserError(f"{where}{key}", f"the list has {len(old)} items", advice)
        result[int(key)] = merge(old[int(key)], value, f"{where}{key}.")
    return result


def read_config(path: Path | str, overrides: Sequence[str] = (), schema: type[Schema] | None = None) -> Config:
    """Read a YAML file, merged with its bases and then with `KEY=VALUE` arguments. Raises UserError."""
    config = Config({})
    for layer in _read_layers(Path(path)):
        config = config.add(layer)
    return read_overrides(config, overrides, schema)


def read_overrides(config: Mapping[str, Any], overrides: Sequence[str], schema: type[Schema] | None = None) -> Config:
    """Apply `KEY=VALUE` arguments to `config`. Raises UserError.

    schema: says which settings are texts; see `arguments.py`. Without it every value is read as YAML.
    """
    config = config if isinstance(config, Config) else Config(config, [Layer(None, config)])
    for argument in overrides:
        key, text = _split(argument)
        keys, source = _numbered(config, key.split(".")), f"argument {_shorten(argument)}"
        value = read_value(text, None if schema is None else types_at(schema, config, keys), source)
        for step in reversed(keys):
            value = {step: value}
        config = config.add(Layer(source, value, is_argument=True))
    return config


def check_config(path: Path | None, overrides: Sequence[str] = ()) -> None:
    """What can be checked without a schema, for commands before they import theirs: the syntax. None: no file.

    Raises UserError unless the YAML file and its bases can be read, and all arguments are KEY=VALUE.
    """
    if path is not None:
        read_config(path)
    for argument in overrides:
        _split(argument)


def _split(argument: str) -> tuple[str, str]:
    key, separator, text = argument.partition("=")
    if not separator or not all(key.split(".")):
        raise UserError(f"argument {argument}", "is not KEY=VALUE", "write for example model.upsampler=carafe")
    return key, text


def _numbered(config: Any, keys: Sequence[str]) -> list[str]:
    """The keys, with the items of lists by index where they are given by name, as in `metrics.depth_errors.crop`."""
    numbered = []
    for key in keys:
        if isinstance(config, list) and not is_index(key):
            names = [item.get("name") if isinstance(item, Mapping) else item for item in config]
            key = str(names.index(key)) if names.count(key) == 1 else key
        numbered.append(key)
        config = item_at(config, key)
    return numbered


def _shorten(argument: str) -> str:
    return argument if len(argument) <= 300 else f"{argument[:200]} ... {argument[-50:]}"
