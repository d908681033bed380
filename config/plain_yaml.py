"""Plain YAML: what a configuration needs of YAML, without what can harm or mislead."""

import re
import reprlib
from collections.abc import Hashable
from typing import Any

import yaml

from errors import UserError

MAX_DEPTH = 50  # levels of nesting in a file, and of bases of bases


class _Short(reprlib.Repr):
    """A `repr` that fits into one line of an error, however long or deep the value is."""

    def __init__(self) -> None:
        super().__init__()
        self.maxstring = self.maxother = 100
        self.maxlevel = 3


short_repr = _Short().repr


class _Loader(yaml.SafeLoader):
    """Plain YAML. Refuses duplicate keys, tags, and aliases, which can expand a small file into gigabytes.

    Also refuses what is not what it looks like in YAML 1.1: the numbers 010 (8) and 1:30 (90), dates (no setting is
    one), and keys like `no` (false).
    """

    _depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent):
            raise _refusal("aliases are not supported", "write the value out, or put text in quotes", event)
        if getattr(event, "tag", None) is not None:
            raise _refusal(f"tags are not supported ({event.tag})", "leave it out, or put text in quotes", event)
        if self._depth == MAX_DEPTH:
            raise _refusal(f"nests deeper than {MAX_DEPTH} levels", "nest less", event)
        self._depth += 1
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key_node, _ in node.value:
            if not isinstance(key_node, yaml.ScalarNode) or key_node.tag == "tag:yaml.org,2002:merge":
                raise _refusal("keys must be plain words", "write `key: value`", key_node)
            value = self.construct_object(key_node)
            if not isinstance(value, str | int) or isinstance(value, bool):
                raise _refusal(f"the key {key_node.value} is not a word to YAML", "put it in quotes", key_node)
            if str(value) in seen:
                raise _refusal(f"key {key_node.value} appears twice", "remove one", key_node)
            seen.add(str(value))
        return super().construct_mapping(node, deep=deep)

    def construct_scalar(self, node: yaml.ScalarNode | yaml.MappingNode) -> Any:
        text = node.value if isinstance(node, yaml.ScalarNode) else ""
        if "\0" in text:
            raise _refusal("a NUL character is not possible", "remove it", node)
        kind = node.tag.rpartition(":")[2]
        if kind in ("int", "float") and (":" in text or re.match(r"[-+]?0[\d_]", text)):
            raise _refusal(f"{text} is not a plain decimal number", "write a plain one, or put text in quotes", node)
        if kind == "timestamp":
            raise _refusal(f"{text} is a date to YAML", f"put it in quotes if it is a text: '{text}'", node)
        return super().construct_scalar(node)

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        value: int = super().construct_yaml_int(node)
        if abs(value) >= 2**63:
            raise _refusal(f"{short_repr(value)} is too large", "write a smaller number, or put text in quotes", node)
        return value

    def construct_yaml_timestamp(self, node: yaml.ScalarNode) -> Any:
        return self.construct_scalar(node)


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)
_Loader.add_constructor("tag:yaml.org,2002:timestamp", _Loader.construct_yaml_timestamp)


class _ArgumentLoader(_Loader):
    """A `#` that begins a comment is an error: on a command line nobody means one."""

    def scan_to_next_token(self) -> None:
        mark, start = self.get_mark(), self.pointer
        super().scan_to_next_token()
        if "#" in self.buffer[start : self.pointer]:
            problem = "what follows # would be a comment"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=mark, note="put text that has a # in quotes")


def _refusal(what: str, do: str, place: yaml.Node | yaml.Event) -> yaml.MarkedYAMLError:
    mark: Any = place.start_mark  # the type stubs have two Mark classes; at run time there is one
    return yaml.MarkedYAMLError(problem=what, problem_mark=mark, note=do)


def parse_file(text: str, where: str) -> Any:
    """The content of a YAML file. Raises UserError with `where`, the line, the reason and what to do."""
    return _parse(text, where, _Loader, "correct the file")


def parse_argument(text: str, where: str) -> Any:
    """The value of a `KEY=VALUE` argument. Raises UserError with `where`, the reason and what to do."""
    return _parse(text, where, _ArgumentLoader, "correct the value, or put text in quotes")


def _parse(text: str, where: str, loader: type[_Loader], do: str) -> Any:
    try:
        return yaml.load(text, Loader=loader)  # a SafeLoader
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        line = f" line {mark.line + 1}" if mark and loader is not _ArgumentLoader else ""
        if "'\\t'" in (error.problem or ""):
            raise UserError(where + line, "has a tab in front of a word", "indent with spaces") from None
        raise UserError(where + line, error.problem or "is not valid YAML", error.note or do) from None
    except (yaml.YAMLError, ValueError) as error:
        raise UserError(where, f"is not valid YAML ({error})", do) from None
