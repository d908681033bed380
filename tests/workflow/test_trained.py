"""Which checkpoint a path means, and that files of converted weights are models by themselves."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from datasets.scenes import SCENE_CLASSES
from errors import UserError
from experiment import load_experiment, make_experiment
from predictor import Predictor
from published.converters.tensors import Converted
from tests.conftest import ROOT
from tests.published.converters.reference_segformer import hub_state
from tools.convert_weights.__main__ import main
from tools.convert_weights.settings import CONFIGS, RECIPES, configuration
from workflow.trained import find_checkpoint, load_trained


@pytest.mark.parametrize(
    ("files", "found"),
    [
        (["best.pt", "last.pt", "previous.pt"], "best.pt"),
        (["last.pt", "previous.pt"], "last.pt"),
        (["previous.pt"], "previous.pt"),
    ],
)
@pytest.mark.parametrize("name", ["run", "checkpoints"])
def test_a_run_folder_means_its_best_checkpoint_else_the_last(tmp_path, files, found, name):
    folder = tmp_path / name / "checkpoints"
    folder.mkdir(parents=True)
    for file in files:
        (folder / file).touch()
    assert find_checkpoint(tmp_path / name) == folder / found
    assert find_checkpoint(folder) == folder / found
    assert find_checkpoint(folder / "other.pt") == folder / "other.pt"


def test_the_last_checkpoint_when_asked_for(tmp_path):
    for name in ("best.pt", "last.pt", "previous.pt"):
        (tmp_path / name).touch()
    assert find_checkpoint(tmp_path, "last").name == "last.pt"


def test_a_folder_without_a_checkpoint_is_refused(tmp_path):
    with pytest.raises(UserError, match="holds no checkpoint"):
        find_checkpoint(tmp_path)


# --- files of converted weights --------------------------------------------------------------------------------------


def convert(monkeypatch, state, folder, *words):
    """Convert tensors with the command, as a user does. Returns the file."""
    torch.save(state, folder / "in.pth")
    arguments = ["--from", "huggingface", *map(str, words), str(folder / "in.pth"), str(folder / "out.pt")]
    monkeypatch.setattr(sys, "argv", ["convert_weights", *arguments])
    main()
    return folder / "out.pt"


def test_a_converted_model_predicts_by_itself(tmp_path, monkeypatch):
    state = hub_state(150)
    path = convert(monkeypatch, state, tmp_path)
    experiment, model, step = load_trained(find_checkpoint(path), None, ["system.workers=0"])
    assert (experiment.data.info.classes[:2], step) == (("wall", "building"), 0)
    assert (experiment.model.backbone.name, experiment.model.backbone.weights) == ("mit_b0", None)
    assert torch.equal(model.head.classifier.weight, state["decode_head.classifier.weight"])
    assert Predictor(path, device="cpu")(np.zeros((40, 50, 3), np.uint8)).semantic.shape == (40, 50)


def test_a_model_of_other_classes_needs_their_names(tmp_path, monkeypatch, capsys):
    path = convert(monkeypatch, hub_state(len(SCENE_CLASSES)), tmp_path)
    assert "name a configuration with --cfg" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"without the names of their classes; convert them again .* --cfg FILE"):
        load_trained(path, None, [])
    settings = {"base": str(ROOT / "configs/seg_bilinear.yaml"), "data": {"classes": list(SCENE_CLASSES)}}
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(settings))
    path = convert(monkeypatch, hub_state(len(SCENE_CLASSES)), tmp_path, "--cfg", tmp_path / "own.yaml")
    assert load_trained(path, None, [])[0].data.info.classes == SCENE_CLASSES
    assert load_trained(path, tmp_path / "own.yaml", ["model.channels=256", "model.backbone=mit_b0"])[2] == 0


def test_a_converted_backbone_and_foreign_weights_are_told_apart(tmp_path, monkeypatch):
    state = hub_state(150)
    encoder = {name: value for name, value in state.items() if "decode_head" not in name}
    path = convert(monkeypatch, encoder, tmp_path)
    with pytest.raises(
        UserError, match=r"of a backbone \(mit_b0\), which predicts nothing; name it as model\.backbone"
    ):
        load_trained(path, None, [])
    with pytest.raises(UserError, match="has the weights of another program; convert them with"):
        load_trained(tmp_path / "in.pth", None, [])


def test_a_misspelt_name_is_corrected():
    with pytest.raises(UserError, match=r"nor a published model; did you mean segformer_b1_ade20k\?"):
        load_trained(find_checkpoint(Path("segformer_b1_ade2k")), None, [])


def test_a_checkpoint_without_its_checksum_is_no_converted_file(tmp_path):
    config = load_experiment(ROOT / "configs/seg_bilinear.yaml").dump()
    torch.save({"model": {"a": torch.zeros(1)}, "ema": None, "step": 1, "config": config}, tmp_path / "last.pt")
    with pytest.raises(UserError, match="has no checksum, so it is cut short"):
        load_trained(tmp_path / "last.pt", None, [])


@pytest.mark.parametrize("name", RECIPES)
def test_each_kind_of_model_carries_the_configuration_of_its_recipe(name):
    for path in RECIPES[name]:
        recipe = load_experiment(CONFIGS / path)
        settings = recipe.model.model_dump(mode="json")
        found = configuration(Converted(name, {}, "", settings, recipe.data.info.num_classes), None)
        own = make_experiment(found, "file")
        assert own.data == recipe.data
        assert own.model.backbone.weights is own.model.weights is None
    other = configuration(Converted(name, {}, "", settings, 12), None)
    assert other is None
