"""Reading, inheriting, overriding and validating YAML."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import pytest
import yaml
from pydantic import Field

from config import Schema, dump, merge, read_config, read_overrides, validate
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


class Root(Schema):
    steps: Annotated[int, Field(gt=0)] = 10
    lr: float = 0.1
    model: Model = Model()
    stages: tuple[Annotated[Sampler | Kernel, Field(discriminator="name")], ...] = ()


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
