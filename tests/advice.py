"""What the errors of this repository advise, collected from its source."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from typing import Any, NamedTuple

from config.schema import children, fields, is_record, names
from experiment import Experiment
from tests.test_repository import sources

GAP = "…"  # what is known only when the error is raised


class Advice(NamedTuple):
    """One advice. place: its module. where, what: of its error. do: the advice. All may have gaps."""

    place: str
    where: str
    what: str
    do: str


@cache
def all_advice() -> tuple[Advice, ...]:
    """The advice of every UserError, and of every ValueError that pydantic turns into one (`what; do`)."""
    found = set()
    for module, path in sources().items():
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):  # some is handed over as an argument
            if isinstance(node, ast.Assign) and "ADVICE" in ast.unparse(node.targets[0]):
                found |= {Advice(module, "", "", do) for do in texts(node.value, [tree])}
            elif isinstance(node, ast.FunctionDef) and "advice" in node.name:
                returned = [item.value for item in ast.walk(node) if isinstance(item, ast.Return)]
                found |= {Advice(module, "", "", do) for value in returned for do in texts(value, [node, tree])}
        for node, scopes in calls(tree):
            name = node.func.id if isinstance(node.func, ast.Name) else ""
            if name == "UserError" and len(node.args) == 3:
                where, what = (texts(argument, scopes)[0] for argument in node.args[:2])
                found |= {Advice(module, where, what, do) for do in texts(node.args[2], scopes)}
            elif name == "ValueError" and node.args:
                for text in texts(node.args[0], scopes):
                    what, separator, do = text.partition("; ")
                    found |= {Advice(module, "", what, do)} if separator else set()
    return tuple(sorted(found))


def calls(tree: ast.Module) -> Iterator[tuple[ast.Call, list[ast.AST]]]:
    """Every call, and the scopes around it, the innermost first."""

    def walk(node: ast.AST, scopes: list[ast.AST]) -> Iterator[tuple[ast.Call, list[ast.AST]]]:
        if isinstance(node, ast.Call):
            yield node, scopes
        inner = [node, *scopes] if isinstance(node, ast.FunctionDef | ast.Module) else scopes
        for child in ast.iter_child_nodes(node):
            yield from walk(child, inner)

    yield from walk(tree, [])


def texts(node: ast.AST | None, scopes: list[ast.AST], seen: tuple[str, ...] = ()) -> list[str]:
    """The texts that an expression may be; what the source does not tell is a gap. seen: names on the way here."""

    def joined(parts: list[ast.AST]) -> list[str]:
        results = [""]
        for part in parts:
            tails = texts(part.value if isinstance(part, ast.FormattedValue) else part, scopes, seen)
            results = [re.sub(f"{GAP}+", GAP, head + tail) for head in results for tail in tails][:8]
        return results

    match node:
        case ast.Constant(str() as value):
            return [value]
        case ast.JoinedStr(parts):
            return joined(parts)
        case ast.IfExp():
            return [*texts(node.body, scopes, seen), *texts(node.orelse, scopes, seen)]
        case ast.BoolOp(values=values):
            return [text for value in values for text in texts(value, scopes, seen)]
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return joined([left, right])
        case ast.Name(id=name) if name not in seen:
            for scope in scopes:
                if values := assigned(name, scope):
                    return [text for value in values for text in texts(value, scopes, (*seen, name))]
    return [GAP]


def assigned(name: str, scope: ast.AST) -> list[ast.AST]:
    """The values that a scope assigns to a name, imports of constants included."""
    values: list[ast.AST] = []
    for node in ast.walk(scope):
        if isinstance(node, ast.Assign):
            for target in node.targets:
                pairs = [(target, node.value)]
                if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
                    pairs = list(zip(target.elts, node.value.elts, strict=False))
                values += [value for left, value in pairs if isinstance(left, ast.Name) and left.id == name]
        elif (
            isinstance(node, ast.AugAssign) and values and isinstance(node.target, ast.Name) and node.target.id == name
        ):
            values[-1] = ast.BinOp(values[-1], ast.Add(), node.value)
        elif isinstance(node, ast.ImportFrom) and name in {alias.name for alias in node.names}:
            path = sources().get(node.module or "")
            values += assigned(name, ast.parse(path.read_text())) if path else []
    return values


# --- settings --------------------------------------------------------------------------------------------------------


@cache
def all_keys() -> frozenset[str]:
    """Every dotted key of every experiment. An item of a list or mapping is `*`, or its name."""
    keys: set[str] = set()

    def walk(kind: Any, key: str) -> None:
        below = {name: children(kind, name) for name in fields(kind)} if is_record(kind) else {"*": children(kind, 0)}
        for name, kinds in below.items():
            if kinds:
                keys.add(f"{key}{name}")
            for inner in kinds:
                if inner is not kind:
                    walk(inner, f"{key}{name}.")
        if key.endswith("*."):  # an item of a list may be given by its name
            for word in names(kind):
                keys.update(f"{key[:-2]}{word}{rest}" for rest in ("", *(f".{name}" for name in fields(kind))))

    walk(Experiment, "")
    return frozenset(keys)


@cache
def words() -> frozenset[str]:
    """The names of all settings that are no ordinary words: with an underscore, or at the root."""
    last = {key.rpartition(".")[2] for key in all_keys()}
    return frozenset(word for word in last if "_" in word)


DOTTED = re.compile(
    rf"(?<![\w./-])((?:model|data|optimizer|schedule|evaluation|logging|system|metrics)(?:\.[\w{GAP}]+)+)"
)
ASSIGNED = re.compile(r"(?<![\w./-])([a-z_]+(?:\.\w+)*)=")


def settings_in(text: str) -> list[str]:
    """The settings that a text names: dotted keys, `KEY=`, and words with an underscore that are keys."""
    found = DOTTED.findall(text) + ASSIGNED.findall(text)
    found += [word for word in re.findall(r"(?<![\w.-])\w+(?![\w.])", text) if word in words()]
    return sorted(set(found))


def is_key(key: str) -> bool:
    """Whether a dotted key, in which gaps may stand for anything, exists; or a word is the last part of one."""
    pattern = re.escape(key).replace(re.escape(GAP), r"\w*")
    return any(re.fullmatch(rf"(.*\.)?{pattern}", known) for known in all_keys())
