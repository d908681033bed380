"""tools.calibrate: a scale and a shift that are known are found, stored, and applied by whatever loads the file."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from errors import UserError
from experiment import load_experiment
from predictor import Predictor
from runtime.checkpoint import save_checkpoint
from structures import Prediction, Target
from tests.conftest import ROOT, assert_same, read, some
from tools.calibrate.fit import ScaleAndShift
from workflow.trained import load_trained

SCALE, SHIFT = 1.75, 0.5  # of the new camera
UNITS = 5000  # of its depth maps per metre


def fit(*images: tuple[list[float], list[float]]) -> ScaleAndShift:
    """The fit to images of one row: predicted and true depths."""
    found = ScaleAndShift()
    for number, (predicted, true) in enumerate(images):
        target = Target(str(number), (1, len(true)), depth=torch.tensor([true]))
        found.update([Prediction(depth=torch.tensor([predicted]))], [target])
    found.gather()
    return found


# --- the fit ---------------------------------------------------------------------------------------------------------


def test_a_known_scale_and_shift_are_found_and_unmeasured_pixels_left_out() -> None:
    found = fit(([1.0, 2.0, 9.0], [3.5, 5.5, 0.0]), ([4.0, 7.0], [9.5, 0.0]))
    assert found.compute() == pytest.approx({"scale": 2, "shift": 1.5})
    assert (found.images, found.pixels) == (2, 3)


def test_the_fit_is_that_of_numpy_whatever_the_sizes_of_the_images() -> None:
    rng = np.random.default_rng(0)
    images = [(rng.uniform(1, 80, n).tolist(), rng.uniform(1, 80, n).tolist()) for n in (3, 50, 1, 17)]
    images = [(p, (np.array(p) * 0.3 + np.array(t)).tolist()) for p, t in images]
    predicted, true = (np.concatenate(part) for part in zip(*images, strict=True))
    scale, shift = np.polyfit(predicted, true, 1)
    assert fit(*images).compute() == pytest.approx({"scale": scale, "shift": shift}, rel=1e-5)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ([([1.0, 2.0], [0.0, 0.0])], "no pixel has a measured depth"),
        ([([2.5, 2.5], [1.0, 2.0]), ([2.5], [9.0])], "predicts 2.5 m at every measured pixel"),
        ([([2.5], [9.0])], "predicts 2.5 m at every measured pixel"),
        ([([1.0, 2.0], [2.0, 1.0])], "predictions grow where the true depth shrinks"),
    ],
)
def test_pixels_that_determine_nothing_are_refused_in_one_line(
    images: list[tuple[list[float], list[float]]], message: str
) -> None:
    with pytest.raises(UserError, match=message) as error:
        fit(*images).compute()
    assert "\n" not in str(error.value)


def test_the_images_of_all_processes_count(monkeypatch: pytest.MonkeyPatch) -> None:
    other = fit(([1.0, 2.0], [2.0, 5.0]))._images
    monkeypatch.setattr("tools.calibrate.fit.gather_objects", lambda own: [own, other])
    assert fit(([1.0, 2.0], [2.0, 3.0])).compute() == pytest.approx({"scale": 2, "shift": 0})


def test_predictions_that_are_not_finite_are_refused() -> None:
    with pytest.raises(UserError, match="image 0 has predicted depths that are not finite"):
        fit(([float("nan"), 1.0], [1.0, 2.0]))


# --- the command -----------------------------------------------------------------------------------------------------

PROBE = "model={name: probe, backbone: {name: mit_b0, weights: null, depths: [1, 1, 1, 1]}, upsampler: bilinear}"
SMALL = ["model.channels=16", "model.stem_channels=8", "model.upsampler=bilinear"]  # a DepthFormer


@pytest.fixture(params=some([SMALL, [PROBE]], [PROBE]), ids=["depthformer", "probe"])
def camera(tmp_path: Path, request: pytest.FixtureRequest) -> tuple[Path, list[str]]:
    """An untrained model, and images whose depth is its prediction times SCALE plus SHIFT, with settings for them."""
    limits = [f"data.depth_scale={UNITS}", "data.max_depth=13", "data.min_depth=0.01"]
    settings = [*limits, f"data.root={tmp_path}", "system.device=cpu", *request.param]
    experiment = load_experiment(ROOT / "configs/small/depth.yaml", settings)
    model = experiment.build_model(pretrained=False)
    last = model.classifier if request.param == [PROBE] else model.decoder.output
    with torch.no_grad():
        last.weight *= 30  # so that predictions differ from pixel to pixel
    checkpoint = tmp_path / "trained.pt"
    save_checkpoint({"config": experiment.dump(), "model": model.state_dict(), "ema": None, "step": 3}, checkpoint)
    predictor = Predictor(checkpoint, device="cpu")
    for folder in ("images", "depths"):
        (tmp_path / folder).mkdir()
    rng = np.random.default_rng(0)
    for number in range(2):
        image = rng.integers(0, 256, (6, 8, 3), np.uint8).repeat(8, axis=0).repeat(8, axis=1)
        Image.fromarray(image).save(tmp_path / f"images/{number}.png")
        depth = predictor(image).depth
        assert depth is not None
        assert depth.max() - depth.min() > 0.1
        values = np.rint((SCALE * depth + SHIFT) * UNITS)
        values[rng.random(values.shape) < 0.3] = 0
        Image.fromarray(values.astype(np.uint16)).save(tmp_path / f"depths/{number}.png")
    folders = [f"data.{split}_{kind}=" + kind for split in ("train", "val") for kind in ("images", "depths")]
    return checkpoint, ["system.device=cpu", *folders]


def test_a_calibrated_checkpoint_predicts_the_depths_of_the_camera(
    camera: tuple[Path, list[str]], here, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint, settings = camera
    out = tmp_path / "calibrated.pt"
    here("tools.calibrate", "--checkpoint", checkpoint, "--out", out, *settings)
    printed = capsys.readouterr().out
    state = torch.load(out, weights_only=True)
    found = state["config"]["model"]["calibration"]
    assert found == pytest.approx({"scale": SCALE, "shift": SHIFT}, abs=1e-3)
    assert f"scale       {found['scale']:.6g}" in printed
    before, after = (state["calibration"][name] for name in ("before", "after"))
    assert before["abs_rel"] > 0.3
    assert after["abs_rel"] < 1e-3
    assert (state["calibration"]["split"], state["calibration"]["images"], state["step"]) == ("train", 2, 3)

    here("eval", "--checkpoint", out, "--json", tmp_path / "result.json", "metrics=[{name: depth_errors, crop: none}]")
    assert read(tmp_path / "result.json")["metrics"]["abs_rel"] < 1e-3
    image = tmp_path / "images/0.png"
    raw, calibrated = Predictor(checkpoint, device="cpu")(image).depth, Predictor(out, device="cpu")(image).depth
    undone = Predictor(out, device="cpu", overrides=["model.calibration=null"])(image).depth
    assert raw is not None
    assert calibrated is not None
    assert undone is not None
    assert np.allclose(calibrated, SCALE * raw + SHIFT, atol=0.01)
    assert np.array_equal(undone, raw)

    # What is exported gives calibrated depths, too.
    images, size = torch.randn(1, 3, 48, 64), torch.tensor([48, 64])
    plain, shifted = (load_trained(path, None, [])[1].eval() for path in (checkpoint, out))
    raw_tensor, tensor = (each.predict_tensors(images, size, size)["depth"] for each in (plain, shifted))
    assert torch.allclose(tensor, SCALE * raw_tensor + SHIFT, atol=0.01)

    # It is fitted to the training images alone, unless asked; predictions below the least depth are not clamped.
    (tmp_path / "nothing").mkdir()
    for path in (tmp_path / "depths").iterdir():
        Image.fromarray(np.zeros((48, 64), np.uint16)).save(tmp_path / "nothing" / path.name)
    other = [*settings, "data.val_depths=nothing"]
    with pytest.raises(UserError, match="no pixel has a measured depth"):
        here("tools.calibrate", "--checkpoint", checkpoint, "--out", tmp_path / "val.pt", "--split", "val", *other)
    far, limit = tmp_path / "far.pt", float(np.median(raw))
    train = [word.replace("data.val_depths=nothing", "data.val_depths=depths") for word in other]
    here("tools.calibrate", "--checkpoint", checkpoint, "--out", far, *train, f"data.min_depth={limit}")
    assert torch.load(far, weights_only=True)["config"]["model"]["calibration"] == pytest.approx(found, abs=1e-3)

    again = tmp_path / "again.pt"  # starts from the predictions without calibration
    here("tools.calibrate", "--checkpoint", out, "--out", again, *settings)
    assert torch.load(again, weights_only=True)["config"]["model"]["calibration"] == pytest.approx(found)


def test_a_checkpoint_from_before_loads_as_it_was(tmp_path: Path) -> None:
    experiment = load_experiment(ROOT / "configs/small/depth.yaml", [PROBE])
    model, config = experiment.build_model(pretrained=False), experiment.dump()
    del config["model"]["calibration"], config["data"]["kb_crop"]
    save_checkpoint({"config": config, "model": model.state_dict(), "ema": None, "step": 5}, tmp_path / "old.pt")
    loaded, same, step = load_trained(tmp_path / "old.pt", None, [])
    assert (loaded.dump(), step) == (experiment.dump(), 5)
    assert_same(same.state_dict(), model.state_dict())


def test_it_takes_depth_models_and_writes_no_checkpoint_of_a_run(here, tiny, tmp_path: Path) -> None:
    experiment = load_experiment(ROOT / "configs/small/seg.yaml", tiny)
    state = {"config": experiment.dump(), "model": experiment.build_model(False).state_dict(), "ema": None, "step": 0}
    save_checkpoint(state, tmp_path / "seg.pt")
    with pytest.raises(UserError, match="is of the task semantic; this takes checkpoints of depth models; name one"):
        here("tools.calibrate", "--checkpoint", tmp_path / "seg.pt", "--out", tmp_path / "new.pt")
    for name in ("seg.pt", "new.txt", "checkpoints/last.pt"):
        with pytest.raises(UserError, match="neither the checkpoint itself nor among those of a run"):
            here("tools.calibrate", "--checkpoint", tmp_path / "seg.pt", "--out", tmp_path / name)
