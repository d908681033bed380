"""Published MaskFormers: ours under their names, and back."""

import json
import os
import pickle
import re
from pathlib import Path

import pytest
import torch

from errors import UserError
from models.maskformer.model import MaskFormer, MaskFormerConfig
from published.converters.reading import read_published
from published.converters.sources import convert
from structures import DatasetInfo
from tests.published.converters.reference_maskformer import HUB_RESNET, RELEASED_RESNET, published
from tests.published.converters.renaming import renamed
from upsamplers import build_upsampler

INFO = DatasetInfo("semantic", "any", tuple("abc"))


def model(upsampler: str = "nearest", backbone: str = "swin_t", **extra: int) -> MaskFormer:
    torch.manual_seed(0)
    options = {"backbone": backbone, "upsampler": upsampler, "queries": 5, "layers": 2, "hidden": 48, "channels": 64}
    options |= extra
    return MaskFormerConfig.model_validate(options).build(INFO)


@pytest.mark.parametrize("source", ["maskformer", "huggingface"])
def test_every_tensor_arrives_at_its_place(source: str) -> None:
    ours = model().state_dict()
    kind, tensors, remark, *_ = convert(source, published(source, ours), "test")
    assert kind == "maskformer_swin_t"
    assert remark.startswith("3 classes, ")
    options = json.loads(re.search(r"model: (\{.*\});", remark)[1])
    assert options["backbone"] == {"name": "swin_t"}
    assert [options[key] for key in ("upsampler", "channels", "queries", "layers", "hidden")] == [
        "nearest",
        64,
        5,
        2,
        48,
    ]
    assert tensors.keys() == ours.keys()
    for name, value in ours.items():
        assert torch.equal(tensors[name], value), name


@pytest.mark.parametrize(("source", "encoder_layers"), [("maskformer", 2), ("maskformer", 0), ("huggingface", 0)])
def test_those_on_a_resnet_arrive_too(source: str, encoder_layers: int) -> None:
    ours = model(backbone="resnet50", encoder_layers=encoder_layers).state_dict()
    state = published(source, renamed(ours, *(RELEASED_RESNET if source == "maskformer" else HUB_RESNET)))
    kind, tensors, remark, *_ = convert(source, state, "test")
    assert kind == "maskformer_resnet50"
    assert ("encoder_layers" in remark) == bool(encoder_layers)
    assert tensors.keys() == ours.keys()
    for name, value in ours.items():
        assert torch.equal(tensors[name], value), name


def test_the_release_comes_as_a_pickle_of_arrays(tmp_path: Path) -> None:
    state = published("maskformer", model().state_dict())
    path = tmp_path / "model_final.pkl"
    arrays = {"model": {name: value.numpy() for name, value in state.items()}, "__author__": "third_party"}
    path.write_bytes(pickle.dumps(arrays))
    found, _ = read_published(path)
    assert found.keys() == state.keys()
    assert all(torch.equal(found[name], value) for name, value in state.items())
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match="not a pickle of arrays only"):
        read_published(path)


def test_pickles_that_call_anything_else_are_refused_unread(tmp_path: Path) -> None:
    canary = tmp_path / "canary"

    class Gadget:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(canary),)

    path = tmp_path / "evil.pkl"
    path.write_bytes(pickle.dumps({"model": {"weight": Gadget()}}))
    with pytest.raises(UserError, match=r"evil.pkl: is not a pickle of arrays only \(it calls posix.mkdir\)"):
        read_published(path)
    assert not canary.exists()


def test_upsamplers_are_recognised() -> None:
    torch.manual_seed(1)
    stages = torch.nn.ModuleList(build_upsampler("dysample-s+", 64) for _ in range(3)).state_dict()
    state = published("maskformer", model().state_dict())
    state |= {f"sem_seg_head.pixel_decoder.upsamplers.{name}": value for name, value in stages.items()}
    _, tensors, remark, *_ = convert("maskformer", state, "test")
    assert '"upsampler": "dysample-s+"' in remark
    for name, value in stages.items():
        assert torch.equal(tensors[f"pixel_decoder.upsamplers.{name}"], value), name


@pytest.mark.parametrize("source", ["maskformer", "huggingface"])
def test_what_is_missing_or_left_over_is_named(source: str) -> None:
    state = published(source, model().state_dict())
    with pytest.raises(UserError, match=r"1 unknown tensors \(extra.weight\)"):
        convert(source, {**state, "extra.weight": torch.zeros(1)}, "file.pth")
    lost = next(name for name in state if "mask_embed" in name)
    with pytest.raises(UserError, match=r"missing \(mask_embedding\.0\.weight"):
        convert(source, {name: value for name, value in state.items() if name != lost}, "file.pth")
