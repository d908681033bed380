"""Weights of timm's backbones: files, checkpoints, and the cache of the Hugging Face hub, all without a network."""

import os
import pickle
from pathlib import Path

import huggingface_hub.constants
import pytest
import timm
import torch
from pydantic import TypeAdapter
from safetensors.torch import save, save_file
from torch import Tensor

from errors import UserError
from models import ModelConfig
from models.backbones.timm import TimmBackbone, TimmConfig
from models.cost import shapes_only
from models.segformer.model import SegFormerConfig
from structures import DatasetInfo
from tests.loopback import serve

NAME = "test_resnet.r160_in1k"
State = dict[str, Tensor]


def build(weights: object, model: str = NAME, seed: int = 1, **options: object) -> TimmBackbone:
    torch.manual_seed(seed)
    return TimmConfig.model_validate({"model": model, "weights": weights, **options}).build().eval()


def published(model: str = NAME) -> State:
    """The state of the whole classifier, as timm publishes it."""
    torch.manual_seed(0)
    return timm.create_model(model).state_dict()


def assert_starts_from(backbone: TimmBackbone, state: State) -> None:
    own = dict(backbone.body.named_parameters())
    shared = [name for name in own if name in state]
    assert shared
    assert all(torch.equal(own[name], state[name]) for name in shared)


# --- files -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["model.safetensors", "model.pth", "wrapped.pt"])
def test_a_file_of_timm_is_loaded(form: str, tmp_path: Path) -> None:
    path, state = tmp_path / form, published()
    if form.endswith("safetensors"):
        save_file(state, path)
    else:
        torch.save({"state_dict": state, "epoch": 3} if form.startswith("wrapped") else state, path)
    assert_starts_from(build(path), state)


def test_position_embeddings_of_a_file_are_resized_by_timm(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file(published("test_vit"), path)
    assert build(path, "test_vit", image_size=[64, 96]).body.pos_embed.shape[1] == 4 * 6 + 1


def test_the_first_convolution_of_a_file_is_adapted_to_other_channels(tmp_path: Path) -> None:
    path, state = tmp_path / "model.pth", published()
    torch.save(state, path)
    first = build(path, in_chans=1).body.conv1[0].weight
    torch.testing.assert_close(first, state["conv1.0.weight"].sum(1, keepdim=True))


@pytest.mark.parametrize("part", ["backbone", "whole model"])
def test_a_checkpoint_of_this_repository_is_loaded(part: str, tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    if part == "backbone":
        trained = build(None, "test_vit", seed=5)
        torch.save({"model": trained.state_dict(), "step": 1}, path)
    else:
        torch.manual_seed(5)
        record = SegFormerConfig(backbone={"name": "timm", "model": "test_vit", "weights": None}, upsampler="dysample")
        model = record.build(DatasetInfo("semantic", "any", ("a", "b")))
        trained = model.backbone
        torch.save({"model": model.state_dict(), "step": 1}, path)
    found = build(path, "test_vit").state_dict()
    assert all(torch.equal(found[name], value) for name, value in trained.state_dict().items())


def test_a_file_of_another_network_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    torch.save(published("test_resnet"), path)
    with pytest.raises(UserError, match=r"does not fit test_convnext"):
        build(path, "test_convnext")


def test_a_file_with_some_tensors_missing_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    torch.save({name: value for name, value in published().items() if "layer3" not in name}, path)
    with pytest.raises(UserError, match=r"\d+ tensors missing \(layer3\.0\.conv1\.weight, "):
        build(path)


def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    path, state = tmp_path / "model.pth", published()
    state["layer1.0.conv1.weight"][0] = torch.nan
    torch.save(state, path)
    with pytest.raises(UserError, match=r"infinite or NaN \(layer1\.0\.conv1\.weight\)"):
        build(path)


class Hostile:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("hacked",)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_file_that_would_run_code_is_refused(suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / f"model{suffix}"
    if suffix == ".pth":
        torch.save({"model": Hostile()}, path)
    else:
        path.write_bytes(pickle.dumps(Hostile()))
    with pytest.raises(UserError, match=r"loading that could run code|is damaged"):
        build(path)
    assert not (tmp_path / "hacked").exists()


@pytest.mark.parametrize("name", ["missing.safetensors", "missing.pth"])
def test_a_missing_file_is_named(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"model\.backbone\.weights .*{name}: no such file"):
        build(tmp_path / name)


# --- the hub ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the hub, which is not asked."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    return tmp_path


def test_without_network_the_error_names_the_repository_and_what_to_do(offline: Path) -> None:
    with pytest.raises(UserError) as caught:
        build("imagenet")
    text = str(caught.value)
    assert text.startswith(
        "model.backbone.weights: https://huggingface.co/timm/test_resnet.r160_in1k cannot be fetched"
    )
    assert "HF_HUB_OFFLINE" in text
    assert text.endswith("set model.backbone.weights=PATH")
    assert "\n" not in text


def test_a_hub_that_does_not_answer_is_named_at_once(offline: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")  # nothing listens there
    with pytest.raises(UserError, match=r"http://127\.0\.0\.1:9/timm/\S+ cannot be fetched \(.*refused"):
        build("imagenet")


def test_imagenet_means_the_published_weights(offline: Path) -> None:
    folder = offline / "models--timm--test_resnet.r160_in1k"
    snapshot = folder / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("0" * 40)
    state = published()
    save_file(state, snapshot / "model.safetensors")
    assert_starts_from(build("imagenet"), state)


def test_weights_are_fetched_once_and_their_licence_is_printed(
    offline: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    state, constants = published(), huggingface_hub.constants
    with serve({f"/timm/{NAME}/resolve/main/model.safetensors": save(state)}) as server:
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        assert_starts_from(build("imagenet"), state)
        assert f"{NAME}: by timm. Licence: apache-2.0\n" in capsys.readouterr().out
        assert_starts_from(build("imagenet"), state)
    assert len(server.requests) == 1
    assert "Licence" not in capsys.readouterr().out


def test_imagenet_is_the_default_and_is_not_fetched_where_pretrained_is_false_or_tensors_have_no_data(
    offline: Path,
) -> None:
    assert TimmConfig(model=NAME).weights == "imagenet"
    TimmConfig(model=NAME).build(pretrained=False)
    with shapes_only():
        TimmConfig(model=NAME).build()


def test_a_model_without_published_weights_is_named() -> None:
    with_weights = {name.partition(".")[0] for name in timm.list_pretrained()}
    nameless = next(name for name in timm.list_models() if name not in with_weights)
    with pytest.raises(UserError, match=rf"timm publishes no weights for {nameless}"):
        build("imagenet", nameless)


def test_the_model_needs_no_weights_of_its_backbone_where_it_has_its_own(offline: Path, tmp_path: Path) -> None:
    record = {"name": "segformer", "backbone": {"name": "timm", "model": NAME}, "upsampler": "bilinear"}
    adapter, info = TypeAdapter(ModelConfig), DatasetInfo("semantic", "any", ("a", "b"))
    model = adapter.validate_python(record).build(info, pretrained=False)
    torch.save({"model": model.state_dict()}, tmp_path / "last.pt")
    again = adapter.validate_python({**record, "weights": tmp_path / "last.pt"}).build(info)
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in model.state_dict().items())
