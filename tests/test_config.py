"""Reading, inheriting, overriding and validating YAML."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import pytest
import yaml
from pydantic import BeforeValidator, Field, model_validator

from config import Schema, dump, expand_word, merge, read_config, read_overrides, validate
from errors import UserError


@dataclass(frozen=True)
class Sampler:
    __pydantic_config__: ClassVar = {"extra": "forbid"}
    name: Literal["sampler"] = "sampler"
    groups: int = 4


class Kernel(Schema):
    name: Literal["kernel"] = "kernel"
    size: Literal[3, 5] = 5


class Model(Schema):
    name: Literal["net"] = "net"
    upsampler: Annotated[Sampler | Kernel, Field(discriminator="name")] = Sampler()


class Needy(Schema):
    name: Literal["needy"] = "needy"
    size: int


class Files(Schema):
    root: Path = Path("data")
    names: tuple[str, ...] | None = None
    labels: dict[int, str] | None = None

    @model_validator(mode="after")
    def _check(self) -> "Files":
        if self.names and len(set(self.names)) < len(self.names):
            raise ValueError("a name appears twice; give each once")
        return self


class Root(Schema):
    steps: Annotated[int, Field(gt=0)] = 10
    lr: float = 0.1
    model: Model = Model()
    stages: tuple[Annotated[Sampler | Kernel, Field(discriminator="name")], ...] = ()
    title: str = "untitled"
    weights: Path | None = None
    best: str | int | None = None
    mode: Literal["fast", "slow"] = "slow"
    files: Files = Files()
    needy: Needy | None = None
    head: Annotated[Sampler | Kernel, Field(discriminator="name"), BeforeValidator(expand_word)] | None = None


def error(config: dict) -> str:
    with pytest.raises(UserError) as caught:
        validate(Root, config, "a.yaml")
    text = str(caught.value)
    assert "\n" not in text
    return text


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_child_overrides_base_key_by_key(tmp_path):
    write(tmp_path, "base.yaml", "steps: 5\nmodel: {upsampler: {name: sampler, groups: 8}}\n")
    child = write(tmp_path, "sub/child.yaml", "base: ../base.yaml\nsteps: 7\n")
    assert read_config(child) == {"steps": 7, "model": {"upsampler": {"name": "sampler", "groups": 8}}}


def test_arguments_override_the_file(tmp_path):
    path = write(tmp_path, "a.yaml", "steps: 5\n")
    assert read_config(path, ["steps=6", "model.upsampler.groups=2"]) == {
        "steps": 6,
        "model": {"upsampler": {"groups": 2}},
    }


def test_changed_name_starts_its_mapping_afresh():
    old = {"upsampler": {"name": "sampler", "groups": 8}}
    assert merge(old, {"upsampler": {"name": "kernel"}}) == {"upsampler": {"name": "kernel"}}
    assert merge(old, {"upsampler": "kernel"}) == {"upsampler": {"name": "kernel"}}
    assert merge(old, {"upsampler": "sampler"}) == {"upsampler": {"name": "sampler"}}
    assert merge(old, {"upsampler": {"groups": 2}}) == {"upsampler": {"name": "sampler", "groups": 2}}
    assert old == {"upsampler": {"name": "sampler", "groups": 8}}


def test_a_word_is_short_for_a_named_mapping():
    assert merge({"upsampler": "sampler"}, {"upsampler": {"groups": 2}}) == {
        "upsampler": {"name": "sampler", "groups": 2}
    }


def test_one_item_of_a_list_can_be_overridden():
    config = {"stages": [{"name": "kernel", "size": 5}, {"name": "sampler"}]}
    assert read_overrides(config, ["stages.0.size=3"])["stages"] == [{"name": "kernel", "size": 3}, {"name": "sampler"}]
    with pytest.raises(UserError, match="2 items"):
        read_overrides(config, ["stages.2.size=3"])


def test_one_item_of_a_list_can_be_overridden_by_its_name():
    config = {"stages": [{"name": "kernel", "size": 5}, "sampler", "twice", "twice"]}
    read = read_overrides(config, ["stages.kernel.size=3", "stages.sampler.groups=2"], Root)
    assert read["stages"] == [{"name": "kernel", "size": 3}, {"name": "sampler", "groups": 2}, "twice", "twice"]
    with pytest.raises(UserError, match=r"argument stages.twice.size=3: stages: .* is not possible; write a list"):
        validate(Root, read_overrides(config, ["stages.twice.size=3"], Root), "a.yaml")


def test_numbers_in_scientific_notation_are_numbers():
    assert validate(Root, read_overrides({}, ["lr=6e-5"]), "a.yaml").lr == 6e-5


def test_dump_is_read_back(tmp_path):
    record = validate(Root, {"stages": [{"name": "kernel", "size": 3}]}, "a.yaml")
    path = write(tmp_path, "dump.yaml", yaml.safe_dump(dump(record), sort_keys=False))
    assert validate(Root, read_config(path), "dump.yaml") == record
    assert dump(record)["model"] == {"name": "net", "upsampler": {"name": "sampler", "groups": 4}}


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"stesp": 1}, "a.yaml: stesp: unknown key; did you mean steps?"),
        (
            {"model": {"upsampler": {"name": "sampler", "gruops": 1}}},
            "model.upsampler.gruops: unknown key; did you mean groups?",
        ),
        (
            {"model": {"upsampler": {"name": "kernle"}}},
            "model.upsampler.name: unknown name kernle; did you mean kernel?",
        ),
        (
            {"model": {"upsampler": {"name": "kernel", "size": 4}}},
            "model.upsampler.size: 4 is not possible; use one of 3, 5",
        ),
        (
            {"stages": [{"name": "kernel"}, {"name": "sampler", "groups": "x"}]},
            "a.yaml: stages.1.groups: 'x' is not possible",
        ),
        ({"steps": 0}, "a.yaml: steps: 0 is not possible; input should be greater than 0"),
        ({"steps": "many"}, "a.yaml: steps: 'many' is not possible"),
        ({"steps": True}, "a.yaml: steps: true is not possible"),
        ({"stages": [{"name": "sampler", "groups": False}]}, "a.yaml: stages.0.groups: false is not possible"),
        ({"model": 3}, "a.yaml: model: 3 is not possible"),
    ],
)
def test_error_names_key_reason_and_remedy(config, expected):
    assert expected in error(config)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("steps: 1\nsteps: 2\n", "line 2: key steps appears twice"),
        ("model:\n  upsampler: {groups: 1, groups: 2}\n", "line 2: key groups appears twice"),
        ("a: &x [1]\nb: *x\n", "aliases are not supported"),
        ("a: !!python/object/apply:os.system ['true']\n", "tags are not supported (tag:yaml.org,2002:python"),
        ("a:\n\t- b\n", "line 2"),
        ("a: [1\n", "line 2"),
        ("- a\n", "is not a mapping"),
        ("", "is not a mapping"),
        ("? [a]\n: 1\n", "keys must be plain words"),
        ("base: [a]\n", "base: is not a path"),
        ("base: missing.yaml\n", "bad.yaml): no such file"),
        ("a: \x00\n", "not valid YAML"),
    ],
)
def test_malformed_file_is_one_line(tmp_path, text, expected):
    with pytest.raises(UserError) as caught:
        read_config(write(tmp_path, "bad.yaml", text))
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_circle_of_bases_is_refused(tmp_path):
    write(tmp_path, "a.yaml", "base: b.yaml\n")
    write(tmp_path, "b.yaml", "base: a.yaml\n")
    with pytest.raises(UserError, match="in a circle"):
        read_config(tmp_path / "a.yaml")


def test_file_that_is_not_utf8_is_refused(tmp_path):
    path = tmp_path / "latin.yaml"
    path.write_bytes("name: caf\xe9".encode("latin-1"))
    with pytest.raises(UserError, match="cannot be read"):
        read_config(path)


@pytest.mark.parametrize("argument", ["steps", "=1", "a..b=1", "--steps=1="[2:4]])
def test_malformed_argument_is_refused(argument):
    with pytest.raises(UserError, match="is not KEY=VALUE"):
        read_overrides({}, [argument])


# --- values of KEY=VALUE ---------------------------------------------------------------------------------------------

TEXTS = [
    "2024-11-23",
    "2024_11_23",
    "001",
    "1e5",
    "0x1F",
    "1:30",
    "12345678901234567890123",
    "yes",
    "true",
    ".nan",
    "/data/set #2",
    "#2",
    "a: b",
    "a=b=c",
    "*a",
    "&a b",
    "!a b",
    "@a",
    "`a`",
    "%a",
    "- a",
    "? a",
    "| a",
    "[a, b]",
    "[a",
    "{a: b}",
    "{a",
    "'a",
    '"a" b',
    "'a' 'b'",
    " a ",
    "a\tb",
    "caf\u00e9 \U0001f600",
    "C:\\data",
    "a\nb",
    "~/data",
    "...",
    "---",
    "<<",
    "=",
]


def given(*arguments: str) -> Root:
    return validate(Root, read_overrides({"model": {"name": "net"}}, arguments, Root), "a.yaml")


@pytest.mark.parametrize("text", TEXTS)
def test_a_text_on_the_command_line_is_taken_as_it_stands(text):
    root = given(f"title={text}", f"files.root={text}", f"weights={text}")
    assert (root.title, root.files.root, root.weights) == (text, Path(text), Path(text))


@pytest.mark.parametrize("text", TEXTS)
def test_a_text_survives_the_file_of_the_run(text, tmp_path):
    record = given(f"title={text}", f"weights={text}")
    path = write(tmp_path, "dump.yaml", yaml.safe_dump(dump(record), sort_keys=False))
    assert validate(Root, read_config(path), path) == record


@pytest.mark.parametrize(("text", "meant"), [("'001'", "001"), ('"a #2"', "a #2"), ("'it''s'", "it's"), ("''", "")])
def test_quotes_around_a_whole_text_are_taken_off(text, meant):
    assert given(f"title={text}").title == meant


@pytest.mark.parametrize("text", ["null", "~", "Null"])
def test_null_leaves_out_what_may_be_left_out(text):
    root = given(f"weights={text}", f"best={text}", f"head={text}", f"title={text}", f"files.root={text}")
    assert (root.weights, root.best, root.head) == (None, None, None)
    assert (root.title, root.files.root) == (text, Path(text))


def test_a_text_or_number_is_a_number_only_if_it_looks_like_one():
    assert given("best=3").best == 3
    assert given("best=2024-11-23").best == "2024-11-23"
    assert given("best='3'").best == "3"


def test_a_word_or_mapping_is_either():
    assert given("head=kernel").head == Kernel()
    assert given("head={name: kernel, size: 3}").head == Kernel(size=3)
    assert given("head=kernel", "head.size=3").head == Kernel(size=3)
    with pytest.raises(UserError, match=r"argument head=kernel #2: head\.name: unknown name kernel #2"):
        given("head=kernel #2")


def test_the_name_in_the_file_says_which_keys_are_texts():
    config = {"stages": [{"name": "kernel"}, {"name": "sampler"}]}
    assert read_overrides(config, ["stages.0.size=3", "stages.1.name=001"], Root)["stages"] == [
        {"name": "kernel", "size": 3},
        {"name": "001"},
    ]


@pytest.mark.parametrize("argument", ["steps=5 #2", "files.names=[a, b #2]", "files.names=[a, #2\n b]", "lr=0.1 # x"])
def test_a_comment_in_an_argument_is_an_error(argument):
    with pytest.raises(UserError, match="what follows # would be a comment; put text that has a # in quotes"):
        given(argument)


def test_a_hash_in_quotes_or_within_a_word_is_no_comment():
    assert given("files.names=['a #1', b#2]").files.names == ("a #1", "b#2")


@pytest.mark.parametrize("argument", ["title=", "weights= ", "steps=", "model.upsampler=", "files.names="])
def test_an_empty_value_is_an_error(argument):
    with pytest.raises(UserError, match=r"has no value; write (null for none|one after the =)"):
        given(argument)


@pytest.mark.parametrize("text", ["a\0b", "a\udcff"])
def test_a_text_that_no_file_can_hold_is_an_error(text):
    with pytest.raises(UserError, match="holds a character that no text may have"):
        given(f"title={text}")


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ("[yes, a]", "files.names.0: is read as true, not as a text; put it in quotes, for example 'yes'"),
        ("[a, no]", "files.names.1: is read as false, not as a text; put it in quotes, for example 'no'"),
        ("[a, 1]", "files.names.1: is read as the number 1, not as a text; put it in quotes, for example '1'"),
        ("[2024-11-23]", "2024-11-23 is a date to YAML; put it in quotes if it is a text: '2024-11-23'"),
        ("[001]", "001 is not a plain decimal number; write a plain one, or put text in quotes"),
        ("a", "files.names: 'a' is not possible; write a list, for example [a, b]"),
    ],
)
def test_what_yaml_takes_for_something_else_in_a_list_is_refused(tmp_path, names, expected):
    with pytest.raises(UserError) as caught:
        given(f"files.names={names}")
    assert str(caught.value) == f"argument files.names={names}: {expected}"
    path = write(tmp_path, "a.yaml", f"files: {{names: {names}}}\n")
    with pytest.raises(UserError) as caught:
        validate(Root, read_config(path), path)
    assert str(caught.value).endswith(expected)


@pytest.mark.parametrize(
    ("text", "expected"), [("2024-11-23", "is a date"), ("20241123", "the number"), ("no", "false")]
)
def test_a_text_in_a_file_that_yaml_takes_for_something_else_is_refused(tmp_path, text, expected):
    path = write(tmp_path, "a.yaml", f"title: {text}\n")
    with pytest.raises(UserError, match=f"{expected}.* in quotes"):
        validate(Root, read_config(path), path)
    path = write(tmp_path, "a.yaml", f"title: '{text}'\n")
    assert validate(Root, read_config(path), path).title == text


@pytest.mark.parametrize("key", ["no", "yes", "null", "1.5", "2024-11-23"])
def test_a_key_that_yaml_takes_for_something_else_is_refused(tmp_path, key):
    """Else `no: door` would be class 0."""
    path = write(tmp_path, "a.yaml", f"files: {{labels: {{{key}: door}}}}\n")
    with pytest.raises(UserError, match=r"a.yaml line 1: .*put it in quotes"):
        read_config(path)


# --- who is to blame -------------------------------------------------------------------------------------------------


EMPTY = "title: a"


@pytest.fixture
def blamed(tmp_path):
    """Read base.yaml, child.yaml and arguments; the start of the error, without the folder."""

    def read(base: str, child: str, *arguments: str) -> str:
        write(tmp_path, "base.yaml", base)
        path = write(tmp_path, "child.yaml", f"base: base.yaml\n{child}")
        with pytest.raises(UserError) as caught:
            validate(Root, read_config(path, arguments, Root), path)
        return str(caught.value).replace(f"{tmp_path}/", "")

    return read


def test_an_error_names_the_argument_that_set_the_key(blamed):
    assert blamed(EMPTY, "lr: 1", "stpes=1").startswith("argument stpes=1: stpes: unknown key; did you mean steps?")
    assert blamed(EMPTY, "lr: 1", "modle.a=1").startswith("argument modle.a=1: modle: unknown key; did you mean")
    assert blamed(EMPTY, "steps: 1", "steps=many").startswith("argument steps=many: steps: 'many' is not possible")
    assert blamed(EMPTY, "lr: 1", "lr=3", "head=kernle").startswith(
        "argument head=kernle: head.name: unknown name kernle"
    )


def test_an_error_names_the_file_that_set_the_key(blamed):
    assert blamed("steps: -1", "lr: 1", "title=a").startswith("base.yaml: steps: -1 is not possible")
    assert blamed("steps: 1", "steps: -1", "title=a").startswith("child.yaml: steps: -1 is not possible")
    assert blamed("model: {upsampler: {name: kernel, size: 4}}", "model: {}").startswith(
        "base.yaml: model.upsampler.size"
    )


def test_an_argument_that_repairs_the_file_is_read(tmp_path):
    path = write(tmp_path, "a.yaml", "steps: -1\n")
    assert validate(Root, read_config(path, ["steps=3"], Root), path).steps == 3


def test_an_error_of_a_whole_record_names_the_arguments_that_set_parts_of_it(blamed):
    what = "files: a name appears twice; give each once"
    argument = "argument files.names=[a, a]"
    assert blamed(EMPTY, "files: {root: x}", "files.names=[a, a]", "lr=2") == f"child.yaml with {argument}: {what}"
    assert blamed(EMPTY, "lr: 1", "files.names=[a, a]", "lr=2") == f"{argument}: {what}"
    assert blamed(EMPTY, "files: {names: [a, a]}", "lr=2") == f"child.yaml: {what}"
    assert blamed("files: {names: [a, a]}", "lr: 2") == f"base.yaml: {what}"


def test_an_argument_answers_for_what_its_component_lacks(blamed):
    assert (
        blamed(EMPTY, "lr: 1", "needy={name: needy}") == "argument needy={name: needy}: needy.size: is required; set it"
    )
    assert blamed(EMPTY, "needy: {name: needy}", "lr=2") == "child.yaml: needy.size: is required; set it"


def test_a_long_argument_is_shortened():
    with pytest.raises(UserError) as caught:
        given("title.a=" + "x" * 100_000)
    assert len(str(caught.value)) < 1000


def test_an_index_beyond_a_list_names_the_argument():
    with pytest.raises(UserError, match=r"^argument stages.1.size=3: stages.1: the list has 0 items"):
        read_overrides({"stages": []}, ["stages.1.size=3"], Root)
