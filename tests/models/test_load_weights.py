from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from errors import UserError
from experiment import load_experiment
from models.cost import shapes_only
from models.weights import _REPLACEABLE, load_start, load_weights
from tests.conftest import ROOT
from upsamplers import NAMES


class Network(nn.Module):
    def __init__(self, classes: int = 5, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.body = nn.Linear(4, 4)
        self.head = nn.ModuleDict({"classifier": nn.Linear(4, classes), "classifier2": nn.Linear(4, 3)})


class Upsampling(Network):
    def __init__(self, upsampler: nn.Module, classes: int = 5, seed: int = 0) -> None:
        super().__init__(classes, seed)
        self.upsamplers = nn.ModuleList([upsampler])


def save(path: Path, **content: object) -> Path:
    torch.save(content, path)
    return path


def refusal(module: nn.Module, path: Path, exclude: tuple[str, ...] | None = None) -> str:
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    with pytest.raises(UserError) as caught:
        load_weights(module, path, "model.weights") if exclude is None else load_start(module, path, exclude)
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())
    assert "\n" not in str(caught.value)
    return str(caught.value)


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_converted_weights_are_loaded(tmp_path: Path) -> None:
    source, module = Network(seed=1), Network()
    path = save(tmp_path / "w.pt", format="denseup-weights", source="x", kind="y", model=source.state_dict())
    load_weights(module, path, "model.weights")
    assert equal(module.state_dict(), source.state_dict())


@pytest.mark.parametrize("averaged", [True, False])
def test_of_a_checkpoint_averaged_weights_come_first(averaged: bool, tmp_path: Path) -> None:
    trained, average, module = Network(seed=1), Network(seed=2), Network()
    ema = average.state_dict() if averaged else None
    path = save(tmp_path / "last.pt", step=3, model=trained.state_dict(), ema=ema, optimizer={"state": {}})
    load_weights(module, path, "model.weights")
    assert equal(module.state_dict(), (average if averaged else trained).state_dict())


def test_excluded_parts_keep_their_start(tmp_path: Path) -> None:
    source, module = Network(classes=7, seed=1), Network()
    start = module.head["classifier"].weight.clone()
    path = save(tmp_path / "w.pt", model=source.state_dict())
    assert load_start(module, path, ("head.classifier",)) == {}
    assert torch.equal(module.head["classifier"].weight, start)
    assert torch.equal(module.body.weight, source.body.weight)
    assert torch.equal(module.head["classifier2"].weight, source.head["classifier2"].weight)


def test_an_exclusion_that_matches_nothing_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "w.pt", model=Network().state_dict())
    message = refusal(Network(), path, ("head.clasifier",))
    assert message == "model.weights_exclude: the model has no head.clasifier; did you mean head.classifier?"


def test_wrong_shapes_and_names_are_counted_and_named(tmp_path: Path) -> None:
    path = save(tmp_path / "w.pt", model=Network(classes=7).state_dict(), kind="other")
    message = refusal(Network(), path)
    assert message.startswith(f"model.weights {path} (other): does not fit the model: 2 tensors of another shape")
    assert "head.classifier.weight [7, 4], here [5, 4]" in message
    path = save(tmp_path / "w.pt", model={"body.weight": torch.zeros(4, 4), "more": torch.zeros(1)})
    message = refusal(Network(), path)
    assert "5 tensors missing (body.bias, head.classifier.weight, head.classifier.bias, ...)" in message
    assert "1 tensors unknown (more)" in message


def test_files_that_are_no_weights_are_refused(tmp_path: Path) -> None:
    assert "no such file" in refusal(Network(), tmp_path / "none.pt")
    assert "is a folder" in refusal(Network(), tmp_path)
    assert "neither converted weights nor a checkpoint" in refusal(Network(), save(tmp_path / "a.pt", step=1))
    whole = save(tmp_path / "w.pt", model=Network().state_dict()).read_bytes()
    for length in (0, 10, len(whole) // 2, len(whole) - 10):
        (tmp_path / "w.pt").write_bytes(whole[:length])
        assert "damaged" in refusal(Network(), tmp_path / "w.pt")


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "model.", "model.module._orig_mod."])
def test_prefixes_of_training_code_come_off(prefix: str, tmp_path: Path) -> None:
    source, module = Network(seed=1), Network()
    path = save(tmp_path / "w.pt", state_dict={prefix + name: value for name, value in source.state_dict().items()})
    load_weights(module, path, "model.weights")
    assert equal(module.state_dict(), source.state_dict())


def test_a_backbone_is_taken_out_of_a_whole_model(tmp_path: Path) -> None:
    source, module = Network(seed=1), Network()
    state = {f"backbone.{name}": value for name, value in source.state_dict().items()} | {"head.a": torch.ones(1)}
    load_weights(module, save(tmp_path / "w.pt", model=state), "model.backbone.weights")
    assert equal(module.state_dict(), source.state_dict())


def test_published_weights_that_are_not_converted_are_told_to_be(tmp_path: Path) -> None:
    path = save(tmp_path / "w.pt", state_dict={**Network().state_dict(), "fc.weight": torch.ones(1)})
    assert "convert it: tools.convert_weights" in refusal(Network(), path)


def test_a_classifier_for_other_classes_keeps_its_start(tmp_path: Path) -> None:
    source, module = Network(classes=7, seed=1), Network()
    start = module.head["classifier"].weight.clone()
    path = save(tmp_path / "w.pt", model=source.state_dict())
    assert load_start(module, path, ()) == {"head.classifier": "different there"}
    assert torch.equal(module.head["classifier"].weight, start)
    assert torch.equal(module.body.weight, source.body.weight)


@pytest.mark.parametrize(
    ("given", "own", "reason"),
    [
        (nn.Identity(), nn.Linear(2, 2), "missing there"),
        (nn.Linear(2, 3), nn.Linear(2, 2), "different there"),
        (nn.Linear(2, 2, bias=False), nn.Linear(2, 2), "different there"),  # not a mixture of two
        (nn.Linear(2, 2), nn.Identity(), "not used here"),
        (nn.Linear(2, 2), nn.Linear(2, 2), None),
    ],
)
def test_another_upsampler_keeps_its_start(
    given: nn.Module, own: nn.Module, reason: str | None, tmp_path: Path
) -> None:
    source, module = Upsampling(given, seed=1), Upsampling(own)
    start = {name: value.clone() for name, value in own.state_dict().items()}
    path = save(tmp_path / "w.pt", model=source.state_dict())
    assert load_start(module, path, ()) == ({"upsamplers": reason} if reason else {})
    assert equal(own.state_dict(), start if reason else given.state_dict())
    assert torch.equal(module.body.weight, source.body.weight)
    assert load_start(module, path, ("upsamplers",)) == {}  # asked for, as it may be for every variant of a comparison


def test_all_else_must_fit_as_ever(tmp_path: Path) -> None:
    state = Network(classes=7).state_dict() | {"body.weight": torch.zeros(4, 5)}
    assert "1 tensors of another shape (body.weight" in refusal(Network(), save(tmp_path / "a.pt", model=state), ())
    foreign = save(tmp_path / "b.pt", state_dict=Network(classes=7).state_dict())
    assert "does not fit the model" in refusal(Network(), foreign, ())  # not even these parts


DEMOS = sorted((ROOT / "configs/small").glob("*.yaml"))


@pytest.mark.parametrize("cfg", DEMOS, ids=lambda path: path.stem)
def test_all_that_differs_between_upsamplers_and_numbers_of_classes_may_be_left_out(cfg: Path) -> None:
    """By the names of the parts, which all models share."""
    states = []
    with shapes_only():
        for name in NAMES:
            experiment = load_experiment(cfg, [f"model.upsampler={name}"])
            info = experiment.data.info
            if name == "carafe" and info.classes:  # a class more, of each kind
                things = (*info.things, True, False) if info.things else ()
                info = replace(info, classes=(*info.classes, "x", *(["y"] if things else [])), things=things)
            states.append(
                {key: tuple(value.shape) for key, value in experiment.model.build(info, False).state_dict().items()}
            )
    for state in states:
        different = {item[0] for item in state.items() ^ states[0].items()}
        assert [name for name in different if not _REPLACEABLE.match(name)] == []
