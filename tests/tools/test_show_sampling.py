"""What `tools.show_sampling` draws and counts is what the upsamplers do."""

import json
import time

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from errors import UserError
from pictures.canvas import RED
from structures import Batch
from tests.conftest import TINY, train
from tools.show_sampling.drawing import (
    Kernel,
    View,
    colour_features,
    draw_arrow_panels,
    draw_arrows,
    draw_histogram,
    draw_kernel,
    draw_kernel_panels,
    draw_points,
)
from tools.show_sampling.panels import draw_stage_panels, make_view, pick_points
from tools.show_sampling.stages import (
    Stage,
    choose_stage,
    offset_statistics,
    run_stages,
    stage_record,
    strides,
    upsamplers_without_stage,
)
from upsamplers import DySample, build_upsampler
from upsamplers.reassemble import reassemble

KERNEL_BASED = ("nearest", "bilinear", "carafe", "fade", "sapa", "a2u", "indexnet", "resfu", "freqfusion")
PLAIN = {"freqfusion": {"resample": False, "high_pass": False}}  # nothing but kernels


def stage(upsampler, x, guide=None, size=None, extent=None) -> Stage:
    with torch.no_grad():
        output = upsampler(x, guide=guide, size=size)
    return Stage("stage", upsampler, x, upsampler.prepare_guide(x, guide), output, extent or x.shape[2:])


def batch_of(images, size=None) -> Batch:
    return Batch(images, [size or tuple(images.shape[2:])], [])


def shifted(offsets) -> DySample:
    """A DySample whose every offset is given: [groups, 2] low-res pixels, (column, row)."""
    groups = len(offsets)
    module = DySample(8, groups=groups)
    with torch.no_grad():
        module.offset.weight.zero_()
        wanted = torch.tensor(offsets).T[:, :, None].expand(2, groups, 4) / module.sampling.factor
        module.offset.bias.copy_(wanted.flatten())
    return module


@pytest.mark.parametrize("name", ["naive", "dysample", "dysample+", "dysample-s", "dysample-s+"])
def test_points_are_those_that_the_module_samples(name):
    torch.manual_seed(0)
    upsampler = build_upsampler(name, 16)
    for parameter in upsampler.parameters():
        nn.init.normal_(parameter, std=0.3)
    x = torch.randn(1, 16, 5, 7)
    found = stage(upsampler, x, size=(9, 14))
    points = torch.from_numpy(found.sampling_points())
    assert points.shape[1:] == (9, 14, 2)
    grid = 2 * points / torch.tensor([7.0, 5.0]) - 1
    groups = x.reshape(len(points), -1, 5, 7)
    output = F.grid_sample(groups, grid, padding_mode="border", align_corners=False)
    torch.testing.assert_close(output.reshape(found.output.shape), found.output)
    starts = found.initial_points()
    steps = (np.arange(14) // 2 + 0.5) if name == "naive" else (np.arange(14) + 0.5) / 2
    np.testing.assert_allclose(starts[0, 3, :, 0], steps, atol=1e-5)


@pytest.mark.parametrize("name", ["sapa-d", "lda_aqu", "fam"])
def test_weighted_points_are_those_that_the_module_sums(name):
    torch.manual_seed(0)
    upsampler = build_upsampler(name, 16)
    for parameter in upsampler.parameters():
        nn.init.normal_(parameter, std=0.2)
    x, guide = torch.randn(1, 16, 5, 7), torch.randn(1, 16, 9, 14)
    found = stage(upsampler, x, guide)
    chosen = found.weighted_points(column=8, row=5)
    if name == "fam":  # one point without weight
        assert chosen is None
        positions, weights = found.sampling_points()[:, 5, 8][:, None], np.ones((1, 1))
    else:
        positions, weights = chosen.positions, chosen.weights
    grid = torch.from_numpy(2 * positions / np.array([7, 5]) - 1).float()[:, :, None]
    groups = x.reshape(len(positions), -1, 5, 7)
    values = F.grid_sample(groups, grid, padding_mode="zeros", align_corners=False)[..., 0]
    read = (values * torch.from_numpy(weights).float()[:, None]).sum(2).flatten()
    torch.testing.assert_close(read, found.output[0, :, 5, 8], rtol=1e-4, atol=1e-5)
    assert found.sampling_points().shape == (len(positions), weights.shape[1] * 9, 14, 2)


def test_freqfusion_has_points_and_kernels():
    found = stage(build_upsampler("freqfusion", 32), torch.randn(1, 32, 5, 7), torch.randn(1, 32, 10, 14))
    assert found.sampling_points().shape == (4, 10, 14, 2)
    assert found.weighted_points(0, 0) is None
    assert found.kernel(0, 0).weights.sum() == pytest.approx(1, abs=1e-5)
    words, rows = draw_stage_panels(found, stage_record(0, found)["offsets"], view())
    assert words == "sampling points and kernels"
    assert [len(row) for row in rows] == [4, 1, 4]


def test_points_beyond_the_outermost_centres_are_read_there():
    found = stage(shifted([[-2.0, 0.0], [0.0, 9.0]]), torch.randn(1, 8, 5, 7))
    left, below = found.sampling_points()
    assert left[0, :, 0].tolist() == [0.5] * 5 + [0.75, 1.25, 1.75, 2.25, 2.75, 3.25, 3.75, 4.25, 4.75]
    assert (below[..., 1] == 4.5).all()
    np.testing.assert_allclose(found.offsets()[0, ..., 0], -2)  # as predicted all the same


def test_offsets_count_where_the_image_is_and_not_its_padding():
    torch.manual_seed(0)
    upsampler = shifted([[0.1, 0.0]])
    nn.init.normal_(upsampler.offset.weight)
    x = torch.zeros(1, 8, 6, 8)
    x[..., 3:, :] = x[..., 5:] = 100  # padding may hold anything
    whole, cut = stage(upsampler, x), stage(upsampler, x, extent=(3, 5))
    assert stage_record(0, whole)["offsets"]["max_abs"] > 1
    found = stage_record(0, cut)["offsets"]
    assert found["max_abs"] == pytest.approx(0.1)
    assert sum(found["histogram"]["counts"]) == 6 * 10 * 2
    assert cut.sampling_points().shape == cut.initial_points().shape == (1, 6, 10, 2)


def test_untrained_offsets_are_almost_nothing():
    torch.manual_seed(0)
    found = stage_record(0, stage(build_upsampler("dysample", 64), torch.randn(1, 64, 6, 6)))["offsets"]
    assert found["share_beyond"] == 0
    assert 0 < found["max_abs"] < 0.02


def test_share_beyond_the_margin_is_of_points_that_leave_it_along_either_axis():
    found = stage_record(
        3, stage(shifted([[0.2, -0.2], [0.3, 0.0], [0.0, -0.26], [-0.24, 0.1]]), torch.randn(1, 8, 3, 4))
    )
    assert (found["stage"], found["upsampler"], found["input"], found["output"]) == (
        3,
        "DySample",
        [8, 3, 4],
        [8, 6, 8],
    )
    assert found["offsets"]["margin"] == 0.25
    assert found["offsets"]["share_beyond_by_group"] == [0, 1, 1, 0]
    assert found["offsets"]["share_beyond"] == 0.5
    assert found["offsets"]["max_abs"] == pytest.approx(0.3)
    assert found["offsets"]["mean_abs"] == pytest.approx((0.4 + 0.3 + 0.26 + 0.34) / 8)


def test_histogram_counts_every_offset_in_low_resolution_pixels():
    offsets = np.array([0.3, -0.9, 0.0, 0.26]).reshape(1, 1, 2, 2)
    found = offset_statistics(offsets, 0.25)
    edges, counts = np.array(found["histogram"]["edges"]), np.array(found["histogram"]["counts"])
    assert counts.sum() == 4
    for value in offsets.flat:
        assert counts[np.searchsorted(edges, value, side="right").clip(1, len(counts)) - 1] > 0
    assert (edges[0], edges[-1]) == (-0.9, 0.9)


def test_offsets_that_are_no_numbers_are_refused():
    with pytest.raises(UserError, match=r"stage 2 .*not finite"):
        stage_record(2, stage(shifted([[float("nan"), 0.0]]), torch.randn(1, 8, 3, 4)))


@pytest.mark.parametrize("name", KERNEL_BASED)
@pytest.mark.parametrize("size", [(10, 14), (9, 13)])
def test_kernels_reproduce_the_output(name, size):
    torch.manual_seed(0)
    upsampler = build_upsampler({"name": name, **PLAIN.get(name, {})}, 32).eval()
    x, guide = torch.randn(1, 32, 5, 7), torch.randn(1, 32, *size)
    found = stage(upsampler, x, guide)
    with torch.no_grad():
        whole = reassemble(x, upsampler.kernels(x, found.guide))
    torch.testing.assert_close(whole[:, :, : size[0], : size[1]], found.output)
    kernel = found.kernel(column=8, row=5)
    reach = len(kernel.weights) // 2
    padded = F.pad(x[0], (reach,) * 4)[:, 2 : 2 + 2 * reach + 1, 4 : 4 + 2 * reach + 1]
    torch.testing.assert_close((padded * torch.from_numpy(kernel.weights)).sum((1, 2)), found.output[0, :, 5, 8])


@pytest.mark.parametrize("scale", [2, 3])
@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("size", [(4, 6), (1, 5)])
def test_bilinear_kernels_are_those_of_interpolate(scale, align_corners, size):
    upsampler = build_upsampler({"name": "bilinear", "align_corners": align_corners}, 3, scale=scale)
    x = torch.randn(2, 3, *size)
    torch.testing.assert_close(reassemble(x, upsampler.kernels(x, None)), upsampler(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["deconv", "pixelshuffle"])
def test_others_have_neither_points_nor_kernels(name):
    found = stage(build_upsampler(name, 8), torch.randn(1, 8, 3, 4))
    assert found.offsets() is None
    assert found.sampling_points() is None
    assert found.kernel(0, 0) is None


class _Model(nn.Module):
    """Two upsamplers, run in the other order than they are registered, the second one guided to an odd size."""

    def __init__(self) -> None:
        super().__init__()
        self.fine = build_upsampler("carafe", 4)
        self.coarse = build_upsampler("fade", 4)

    def outputs(self, images):
        return {"x": self.fine(self.coarse(images[:, :, :3, :5], guide=images), size=(11, 17))}


def test_stages_come_in_the_order_of_running_with_their_inputs():
    model, images = _Model(), torch.randn(1, 4, 6, 9)
    with torch.no_grad():
        stages = run_stages(model, batch_of(images, (5, 9)))
        output = model.outputs(images)["x"]
    assert [one.name for one in stages] == ["coarse", "fine"]
    torch.testing.assert_close(stages[1].x, stages[0].output)
    torch.testing.assert_close(stages[1].output, output)
    assert stages[0].guide.shape == (1, 4, 6, 10)  # continued
    assert stages[1].guide is None
    assert [one.extent for one in stages] == [(3, 5), (5, 9)]
    assert not model.fine._forward_hooks


def test_extent_is_exact_where_an_image_fills_its_map():
    sizes = [(32 * rows, 32 * columns) for rows, columns in ((1, 1), (7, 9), (25, 42))]
    for height, width in sizes:
        images, x = torch.zeros(1, 3, height, width), torch.zeros(1, 4, height // 32, width // 32)
        assert (strides(batch_of(images), x) == 32).all()
        model = build_upsampler("nearest", 4)
        model.outputs = lambda _, model=model, x=x: model(x)
        (found,) = run_stages(model, batch_of(images))
        assert found.extent == (height // 32, width // 32)


# --- pictures


def view(region=(8, 0, 16, 8), stride=4.0) -> View:
    return View(np.full((24, 32, 3), 200, np.uint8), np.array([stride, stride]), region)


def test_view_puts_low_resolution_points_onto_the_region():
    found = view()
    height, width = found.panel
    assert width == 2 * height
    np.testing.assert_allclose(
        found.on_panel(np.array([[2.0, 0.0], [6.0, 2.0], [4.0, 1.0]])),
        [(0, 0), (width, height), (width / 2, height / 2)],
    )
    assert found.contains(np.array([[2.0, 0.0], [1.9, 1.0], [6.0, 1.0], [5.9, 1.9]])).tolist() == [
        True,
        False,
        False,
        True,
    ]


def test_region_of_a_map_is_that_of_the_image():
    rows, columns = np.indices((6, 8))
    colours = np.stack([rows, columns, 0 * rows], axis=-1).astype(np.uint8)
    shown = view().crop_of_map(colours, 1)
    assert np.unique(shown[..., 0]).tolist() == [0, 1]
    assert np.unique(shown[..., 1]).tolist() == [2, 3, 4, 5]
    assert (np.diff(shown[0, :, 1].astype(int)) >= 0).all()


def test_arrow_ends_where_the_point_samples():
    ground = np.full((60, 60, 3), 255, np.uint8)
    drawn = draw_arrows(ground, np.array([[10.5, 10.5]]), np.array([[40.5, 30.5]]), (0, 0, 255))
    assert drawn[30, 40].tolist() == [0, 0, 255]
    assert (drawn[20, 25] < 128).all()  # half way
    changed = (drawn != 255).any(-1)
    assert not changed[36:].any()
    assert not changed[:, 46:].any()
    assert (ground == 255).all()


def test_panels_show_the_points_of_the_region_group_by_group():
    found = stage(shifted([[0.0, 0.0], [0.5, 0.0]]), torch.randn(1, 8, 6, 8))
    beyond = np.abs(found.offsets()).max(-1) > found.margin
    panels = draw_arrow_panels(view(), found.initial_points(), found.sampling_points(), beyond, found.margin, 2)
    assert list(panels) == ["group 0: 0% here beyond 0.25", "group 1: 100% here beyond 0.25"]
    still, moved = panels.values()
    column, row = np.floor(view().on_panel(np.array([2.75, 0.75]))).astype(int)  # of the second pixel of the region
    assert (still[row, column] != still[row + 12, column + 12]).any()
    moved_to = np.floor(view().on_panel(np.array([3.25, 0.75]))).astype(int)
    assert moved[moved_to[1], moved_to[0]].tolist() != moved[moved_to[1] + 20, moved_to[0] + 20].tolist()


def test_discs_lie_where_points_are_and_grow_with_their_weights():
    ground = np.full((80, 80, 3), 255, np.uint8)
    blue = (0, 0, 255)
    points, weights = np.array([[20.5, 20.5], [60.5, 20.5]]), np.array([0.9, 0.1])
    drawn = draw_points(ground, np.array([40.5, 60.5]), points, weights, blue)
    discs = (drawn == blue).all(-1)
    left, right = discs[:34, :40].sum(), discs[:34, 40:].sum()
    assert discs[20, 20]
    assert discs[20, 60]
    assert left > 5 * right
    assert (ground == 255).all()


def test_panels_show_weighted_points_group_by_group():
    torch.manual_seed(0)
    found = stage(build_upsampler("sapa-d", 8), torch.randn(1, 8, 6, 8), torch.randn(1, 8, 12, 16))
    words, rows = draw_stage_panels(found, stage_record(0, found)["offsets"], view())
    assert words == "sampling points"
    assert [title.partition(":")[0] for title in rows[0]] == [f"group {group}" for group in range(4)]
    assert len(stage_record(0, found)["offsets"]["share_beyond_by_group"]) == 4


def test_kernel_is_brightest_at_its_largest_weight_and_cut_off_at_the_panel():
    ground = np.full((90, 90, 3), 255, np.uint8)
    weights = np.zeros((3, 3))
    weights[0, 2] = 0.5
    drawn = draw_kernel(ground, weights, np.array([[-30.0, 30.0], [60.0, 120.0]]), np.array([15.5, 75.5]), 0.5)
    brightness = drawn.astype(float).sum(-1)
    assert (drawn[:30] == 255).all()
    assert (drawn[:, 60:] == 255).all()
    assert brightness[45, 45] > brightness[45, 15] + 100  # the weight at the upper right of the window
    assert np.array_equal(drawn[45, 15], drawn[85, 55])  # both weights are 0


def test_kernel_panels_say_the_sum_of_the_weights():
    panels = draw_kernel_panels(view(), [Kernel(5, 1, 2, np.full((3, 3), 0.1))])
    assert list(panels) == ["(5, 1): up to 0.100, sum 0.900"]


def test_feature_colours_mean_the_same_before_and_after():
    low = np.random.default_rng(0).normal(size=(5, 4, 6))
    before, after = colour_features(low, low.repeat(2, axis=1).repeat(2, axis=2))
    assert np.array_equal(before.repeat(2, axis=0).repeat(2, axis=1), after)
    assert before.std(axis=(0, 1)).min() > 30
    flat, _ = colour_features(np.ones((2, 3, 3)), np.ones((2, 6, 6)))
    assert flat.shape == (3, 3, 3)


def test_histogram_is_red_beyond_the_margin_only():
    edges = np.linspace(-1, 1, 9)
    inside, outside = draw_histogram(np.eye(8)[4], edges, 0.25), draw_histogram(np.eye(8)[7], edges, 0.25)
    assert not (inside == RED).all(-1).any()
    assert (outside == RED).all(-1).any()


# --- the command


@pytest.mark.parametrize(("size", "sizes"), [((64, 96), [(64, 96)]), ((32, 48), [(64, 96)]), ((50, 90), [(50, 90)])])
def test_default_region_lies_in_the_image_on_whole_pixels(size, sizes):
    image = np.zeros((*size, 3), np.uint8)
    batch = Batch(torch.zeros(1, 3, 64, 96), sizes, [])
    found = make_view(stage(build_upsampler("nearest", 4), torch.zeros(1, 4, 16, 24)), batch, image, None)
    left, top, width, height = found.region
    assert (found.stride == 4 * np.array(size[::-1]) / sizes[0][::-1]).all()
    assert (width, height) == (8 * found.stride[0], 8 * found.stride[1])
    assert left % found.stride[0] == top % found.stride[1] == 0
    assert left + width <= size[1]
    assert top + height <= size[0]


def test_stage_must_exist(tmp_path):
    stages = [stage(build_upsampler("nearest", 4), torch.zeros(1, 4, 2, 2))] * 3
    assert choose_stage(stages, None, tmp_path) == 2
    assert choose_stage(stages, 0, tmp_path) == 0
    for number in (-1, 3):
        with pytest.raises(UserError, match=f"--stage {number}: the model runs 3 upsamplers; use 0 to 2"):
            choose_stage(stages, number, tmp_path)
    with pytest.raises(UserError, match="runs no upsampler"):
        choose_stage([], None, tmp_path)


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        (["dysample", "dysample", "bilinear", "bilinear"], 1),
        (["carafe", "dysample", "carafe"], 1),
        (["carafe", "carafe", "nearest"], 1),
        (["bilinear", "nearest"], 1),
    ],
)
def test_stage_shown_by_default_is_one_that_samples_else_one_that_learns(tmp_path, names, chosen):
    stages = [stage(build_upsampler(name, 4), torch.zeros(1, 4, 2, 2)) for name in names]
    assert choose_stage(stages, None, tmp_path) == chosen


def test_default_kernels_lie_within_the_region():
    found = stage(build_upsampler("carafe", 4), torch.zeros(1, 4, 16, 24))
    shown = make_view(found, batch_of(torch.zeros(1, 3, 64, 96)), np.zeros((64, 96, 3), np.uint8), None)
    left, top, width, height = shown.region
    for column, row in pick_points(found, shown):
        first = 4 * np.array([column // 2 - 2, row // 2 - 2])
        assert (first >= (left, top)).all()
        assert (first + 20 <= (left + width, top + height)).all()


def test_upsamplers_of_regions_are_named_as_such():
    model = nn.ModuleDict({"whole": build_upsampler("nearest", 4), "mask_head": build_upsampler("carafe", 4)})
    shown = stage(model["whole"], torch.zeros(1, 4, 2, 2))
    shown.name = "whole"
    assert upsamplers_without_stage(model, [shown]) == ["mask_head"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory, scenes):
    """The folder of a tiny run, and an image."""
    folder = tmp_path_factory.mktemp("sampling")
    options = [*TINY, f"data.root={scenes}/ADEChallengeData2016", f"output_dir={folder}", "run_name=seg", "steps=2"]
    train(*options, "evaluation.pictures=0", "evaluation.every=2")
    time.sleep(1.1)  # TensorBoard reads event files of the same second in the order of their process numbers
    return folder / "seg", next((scenes / "ADEChallengeData2016/images/validation").iterdir())


@pytest.fixture
def show(here, trained):
    run = trained[0]
    return lambda *words: here("tools.show_sampling", "--checkpoint", run, *words)


def test_command_writes_picture_numbers_and_board(show, trained, tmp_path, capsys):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run, image = trained
    show("--out", tmp_path / "a.png", "--stage", 1, "--region", 0, 0, 40, 30, "--tensorboard", image)
    record = json.loads((tmp_path / "a.json").read_text())
    assert (record["step"], record["stage"], record["region"], record["shown"]) == (
        2,
        1,
        [0, 0, 40, 30],
        "sampling points",
    )
    assert [one["stage"] for one in record["stages"]] == list(range(6))
    assert record["without_stage"] == []
    assert all(0 <= one["offsets"]["share_beyond"] <= 1 for one in record["stages"])
    assert np.asarray(Image.open(tmp_path / "a.png")).std() > 10
    assert f"sampling points of stage 1 in {tmp_path / 'a.png'}" in capsys.readouterr().out
    board = EventAccumulator(str(run)).Reload()
    assert [event.step for event in board.Images(f"sampling/{image.stem}/stage_1")] == [2]
    assert {f"offsets/{image.stem}/stage_{number}" for number in range(6)} <= set(board.Tags()["histograms"])


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["IMAGE", "--out", "a.png", "--region", 60, 0, 8, 8], "--region 60 0 8 8: does not lie in the image"),
        (["IMAGE", "--out", "a.png", "--region", 0, 0, 0, 8], "--region 0 0 0 8: does not lie in the image"),
        (["IMAGE", "--out", "a.png", "--region", 0, 0, 1, 1], "--region 0 0 1 1: holds no point of the stage"),
        (["IMAGE", "--out", "a.png", "--region", 0, 0, 64, 4], "--region 0 0 64 4: is a strip too narrow to draw"),
        (["IMAGE", "--out", "a.png", "--stage", 6], "--stage 6: the model runs 6 upsamplers"),
        (["IMAGE", "--out", "a.txt"], "a.txt: is not the name of a picture"),
        (["IMAGE", "--out", "IMAGE"], "would overwrite the image"),
        (["IMAGE", "--out", "README.md/a.png"], "README.md"),
        (["missing.jpg", "--out", "a.png"], "missing.jpg: no such image"),
        (["README.md", "--out", "a.png"], "README.md: "),
        (["IMAGE", "--out", "a.png", "--checkpoint", "missing.pt"], "missing.pt: no such checkpoint"),
    ],
)
def test_bad_input_is_named(show, trained, tmp_path, words, complaint):
    image = trained[1]
    words = [image if word == "IMAGE" else word for word in words]
    words = [tmp_path / word if word in ("a.png", "a.txt") else word for word in words]
    with pytest.raises(UserError) as caught:
        show(*words)
    assert complaint in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_a_json_of_somebody_else_is_kept(show, trained, tmp_path):
    image = trained[1]
    theirs = tmp_path / "results.json"
    for text in ('{"metrics": {"mIoU": 40}}', "[1, 2]", "no JSON"):
        theirs.write_text(text)
        with pytest.raises(UserError, match=r"results\.json, which tools\.show_sampling did not write; choose another"):
            show("--out", tmp_path / "results.png", image)
        assert theirs.read_text() == text
        assert [path.name for path in tmp_path.iterdir()] == ["results.json"]


def test_board_needs_a_run_folder(show, trained, tmp_path):
    run, image = trained
    alone = tmp_path / "alone.pt"
    alone.write_bytes((run / "checkpoints/last.pt").read_bytes())
    with pytest.raises(UserError, match=r"--tensorboard: .* is not in a run folder"):
        show("--checkpoint", alone, "--tensorboard", "--out", tmp_path / "a.png", image)
