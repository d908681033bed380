"""Random weights of every entry of the index: served, fetched, checked, converted, cached, loaded."""

import hashlib
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from experiment import load_experiment
from models.wrappers import State
from published.cache import check, stored
from published.index import Entry, entries
from tests.conftest import ROOT
from tests.loopback import serve
from tests.published.converters.reference_mmdet import DYSAMPLE_PLUS_EARLY, detector, upsamplers
from tests.published.layouts import published_file, published_state
from workflow.trained import load_trained

# One of each converter that test_published_weights.py does not take all the way.
QUICK = ["resnet50_imagenet", "swin_t_imagenet"]
# What no model needs: classifiers of backbones and their last norms, what is computed, what training left behind.
UNUSED = r"num_batches_tracked$|relative_position_index$|^criterion\.|^(head|fc|classifier)\.|^norm\."
# The configuration that starts from ImageNet weights, and the settings of its backbone.
STARTS = {
    "mit": ("seg_bilinear", "model.backbone.name={}"),
    "resnet50": ("det_nearest", "model.backbone.name={}"),
    "resnet101": ("det_nearest", "model.backbone.name={}"),
    "swin": ("depth_bilinear", "model.backbone.name={}"),
}


def total(state: State) -> float:
    return sum(value.sum(dtype=torch.float64).item() for value in state.values())


def load(entry: Entry) -> State:
    """The tensors of the model that a user gets who names the entry, under the names in the file of the cache."""
    if entry.cfg is not None:
        _, model, _ = load_trained(Path(entry.name), None, [])
        return dict(model.state_dict())
    name = entry.name.rpartition("_")[0]
    cfg, setting = STARTS[name.split("_")[0]]
    experiment = load_experiment(ROOT / f"configs/{cfg}.yaml", [setting.format(name)])
    assert experiment.model.backbone.published.name == entry.name
    experiment.fetch_weights()
    return dict(experiment.build_model().backbone.state_dict())


@pytest.mark.parametrize(
    "name",
    [
        name if name in QUICK else pytest.param(name, marks=pytest.mark.slow)
        for name, entry in entries().items()
        if entry.package is None  # those are in test_packages.py
    ],
)
def test_random_weights_go_all_the_way_into_the_model(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = published_state(entries()[name])
    content = published_file(entries()[name], state)
    facts = {"digest": f"sha256:{hashlib.sha256(content).hexdigest()}", "size": len(content)}
    entry = entries()[name].model_copy(update=facts)
    monkeypatch.setitem(entries(), name, entry)
    monkeypatch.setenv("DENSEUP_CACHE", str(tmp_path))
    with serve({f"/{entry.file}": content}) as server:
        monkeypatch.setenv("DENSEUP_MIRROR", server.url)
        found = load(entry)
    assert check(name) is None

    cached = load_file(stored(name))
    assert found.keys() == cached.keys()
    assert all(torch.equal(found[key], value) for key, value in cached.items())
    if entry.converter == "torchvision" and entry.cfg:
        return  # of its classes only 80 of 91 are used, and its normalisations are changed
    added = ("num_batches_tracked", r"^norms\.")[: 2 if entry.converter == "timm" else 1]
    used = {key: value for key, value in state.items() if not re.search(UNUSED, key)}
    arrived = {key: value for key, value in found.items() if not re.search("|".join(added), key)}
    assert total(arrived) == pytest.approx(total(used), rel=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("levels", [3, 4])
def test_a_detector_is_built_as_its_tensors_say(levels: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which pyramid and which DySample+ the authors' detectors have is not known before they come."""
    entry = entries()["faster_rcnn_r50_dysample_plus"]
    monkeypatch.setenv("DENSEUP_CACHE", str(tmp_path))
    shapes = {key: shape for key, shape in DYSAMPLE_PLUS_EARLY.items() if levels == 3 or key != "scope__bias"}
    state = detector(p6=levels == 4) | upsamplers(levels, "neck.upsample_modules.", **shapes)
    with serve({f"/{entry.file}": published_file(entry, state)}) as server:
        monkeypatch.setenv("DENSEUP_MIRROR", server.url)
        experiment, model, _ = load_trained(Path(entry.name), None, [])
    assert experiment.model.neck == ("fpn" if levels == 3 else "fpn_p6")
    assert ("neck.upsamplers.0.scope.bias" in model.state_dict()) == (levels == 3)
