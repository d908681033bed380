"""Names, presets, options and the records behind them, with and without pydantic."""

from typing import Annotated, Union

import pytest
from pydantic import Field, TypeAdapter, ValidationError

from upsamplers import CONFIGS, NAMES, NEWER_NAMES, PAPER_NAMES, PRESETS, build_upsampler, expand_name

PYDANTIC = TypeAdapter(Annotated[Union[CONFIGS], Field(discriminator="name")])  # noqa: UP007


# Names of further upsamplers, first the records, then the presets.
NOT_IN_THE_PAPER = ["fam", "lda_aqu", "resfu", "freqfusion", "sapa-d", "fade-lite"]


def test_names_are_the_records_and_the_presets():
    canonical = [expand_name(name)["name"] for name in NAMES if name not in PRESETS]
    assert sorted(canonical) == sorted(record.name for record in CONFIGS)
    assert set(PRESETS) < set(NAMES)
    assert list(NEWER_NAMES) == NOT_IN_THE_PAPER
    assert len(set(PAPER_NAMES)) == len(PAPER_NAMES) == 14
    assert [*PAPER_NAMES, *NEWER_NAMES] == list(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_every_name_builds_directly_and_through_pydantic(name):
    record = PYDANTIC.validate_python(expand_name(name))
    built = record.build(64, 32, 2)
    direct = build_upsampler(name, 64, 32)
    assert type(built) is type(direct)
    assert {k: v.shape for k, v in built.state_dict().items()} == {k: v.shape for k, v in direct.state_dict().items()}
    assert (direct.channels, direct.scale) == (64, 2)
    assert direct.guide_channels == (32 if direct.uses_guide else 64)


def test_preset_in_a_mapping_can_be_overridden():
    assert expand_name("dysample-s+") == {"name": "dysample", "style": "pl", "dyscope": True}
    assert expand_name({"name": "dysample-s", "groups": 4}) == {"name": "dysample", "style": "pl", "groups": 4}
    assert expand_name({"name": "naive", "scope": 0.25})["scope"] == 0.25
    assert build_upsampler({"name": "dysample-s", "groups": 2}, 16).groups == 2


def test_expanding_leaves_the_arguments_alone():
    mapping = {"name": "naive", "groups": 2}
    expand_name(mapping)["style"] = "pl"
    assert mapping == {"name": "naive", "groups": 2}
    assert expand_name("naive") == {"name": "dysample", "groups": 1, "start": "nearest", "scope": 1.0}


@pytest.mark.parametrize(("name", "groups"), [("dysample", 4), ("dysample+", 4), ("dysample-s", 8), ("dysample-s+", 8)])
def test_default_groups_are_those_of_the_paper(name, groups):
    assert build_upsampler(name, 256).groups == groups


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("dysampel", "unknown upsampler 'dysampel'; did you mean 'dysample'.* valid: nearest, bilinear, .*dysample-s"),
        ("CARAFE", "did you mean 'carafe'"),
        ({"name": "index-net"}, "did you mean 'indexnet'"),
        ("", "unknown upsampler ''; valid: nearest"),
        ({"name": 3}, "unknown upsampler '3'"),
        ({"style": "lp"}, "a mapping with a name"),
        (None, "a name or a mapping"),
        ({"name": "dysample", "group": 4}, "dysample has no option 'group'; did you mean 'groups'"),
        ({"name": "carafe", "style": "pl"}, "carafe has no option 'style'; .*valid: compressed_channels, kernel"),
        ({"name": "nearest", "scale_factor": 2}, "no option 'scale_factor'; valid: none"),
    ],
)
def test_unknown_names_and_options_come_with_a_suggestion(value, message):
    with pytest.raises(ValueError, match=message):
        build_upsampler(value, 16)


BAD_VALUES = [
    ({"name": "dysample", "groups": "four"}, "groups"),
    ({"name": "dysample", "groups": 2.5}, "groups"),
    ({"name": "dysample", "groups": 0}, "groups"),
    ({"name": "dysample", "style": "lpp"}, "style"),
    ({"name": "dysample", "dyscope": "maybe"}, "dyscope"),
    ({"name": "dysample", "scope": -1.0}, "scope"),
    ({"name": "dysample", "scope": float("nan")}, "scope"),
    ({"name": "dysample", "scope": None}, "scope"),
    ({"name": "carafe", "kernel": 4}, "kernel"),
    ({"name": "carafe", "encoder_kernel": -3}, "encoder_kernel"),
    ({"name": "carafe", "compressed_channels": 0}, "compressed_channels"),
    ({"name": "fade", "gate": [True]}, "gate"),
    ({"name": "fade", "kernel": 2}, "kernel"),
    ({"name": "sapa", "norm": "batch"}, "norm"),
    ({"name": "sapa", "embedding": -32}, "embedding"),
    ({"name": "indexnet", "double_sigmoid": "sure"}, "double_sigmoid"),
    ({"name": "indexnet", "network": "hinge"}, "network"),
    ({"name": "fade", "lite": "maybe"}, "lite"),
    ({"name": "sapa", "deform": "deep"}, "deform"),
    ({"name": "sapa-d", "points": 0}, "points"),
    ({"name": "sapa-d", "kernel": 3}, "kernel"),
    ({"name": "sapa", "high_offset": False}, "high_offset"),
    ({"name": "fam", "gated": "maybe"}, "gated"),
    ({"name": "lda_aqu", "kernel": 2}, "kernel"),
    ({"name": "lda_aqu", "reduction": 0}, "reduction"),
    ({"name": "lda_aqu", "offset_range": -1.0}, "offset_range"),
    ({"name": "resfu", "embedding": 12}, "embedding"),
    ({"name": "freqfusion", "init": "xavier"}, "init"),
    ({"name": "freqfusion", "compressed_channels": -1}, "compressed_channels"),
    ({"name": "freqfusion", "high_pass": "sometimes"}, "high_pass"),
]


@pytest.mark.parametrize(("value", "option"), BAD_VALUES)
def test_unfit_values_are_refused_directly_and_by_pydantic(value, option):
    with pytest.raises(ValueError, match=option):
        build_upsampler(value, 16)
    with pytest.raises(ValidationError, match=option):
        PYDANTIC.validate_python(expand_name(value))


def test_true_is_no_number_without_pydantic():
    with pytest.raises(ValueError, match="groups must be int or null, got True"):
        build_upsampler({"name": "dysample", "groups": True}, 16)


@pytest.mark.parametrize("value", [{"name": "dysample", "kernel": 3}, {"name": "nearest", "groups": 4}, {"name": "x"}])
def test_pydantic_refuses_unknown_options_and_names(value):
    with pytest.raises(ValidationError):
        PYDANTIC.validate_python(value)


def test_records_survive_a_round_trip():
    record = PYDANTIC.validate_python({"name": "dysample", "scope": "6e-5", "groups": None})
    assert record.scope == 6e-5
    assert PYDANTIC.validate_python(PYDANTIC.dump_python(record)) == record
