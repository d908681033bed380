"""Class and depth maps from windows and views."""

import pytest
import torch

from datasets.transforms import Normalize
from inference import InferenceConfig, build_inference
from inference.maps import bands
from inference.windows import WindowConfig, windows_of
from structures import DatasetInfo
from tests.inference.made import PLAIN, Pointwise, batch_of, noise

WINDOWS = [
    {"size": (32, 32)},
    {"size": (48, 40), "overlap": 0.7, "blend": "mean"},
    {"size": (100, 16), "overlap": 0.0},
    {"size": (999, 999)},
]


def info_of(classes: int) -> DatasetInfo:
    return DatasetInfo("semantic" if classes > 1 else "depth", "made", tuple(map(str, range(classes))))


def predict(classes: int, image, size=None, model=None, **settings):
    torch.manual_seed(0)
    model = model or Pointwise(classes)
    config = InferenceConfig.model_validate(settings)
    inference = build_inference(config, model, (PLAIN,), info_of(classes))
    assert inference.transforms == ()  # views are normalised one by one
    return inference.predict(batch_of(image, size))[0]


@pytest.mark.parametrize("windows", WINDOWS)
@pytest.mark.parametrize("size", [(75, 90), (50, 131)])
def test_windows_change_nothing_for_a_model_of_single_pixels(windows, size):
    image = noise(75, 90)
    torch.manual_seed(0)
    depths = Pointwise(1)
    torch.manual_seed(0)
    scores = Pointwise(5)
    with torch.no_grad():
        expected = depths.mix(image[None].float())
        classes = scores.mix(image[None].float()).softmax(dim=1)
    if size != (75, 90):
        expected, classes = (
            torch.nn.functional.interpolate(each, size, mode="bilinear") for each in (expected, classes)
        )
    found = predict(1, image, size, windows=windows).depth
    torch.testing.assert_close(found, expected[0, 0], rtol=1e-5, atol=1e-3)
    labels = predict(5, image, size, windows=windows).semantic
    assert labels.dtype == torch.int16
    assert (labels == classes[0].argmax(dim=0)).float().mean() > 0.999


@pytest.mark.parametrize("classes", [1, 3])
@pytest.mark.parametrize("width", [1, 60, 150])
def test_bands_change_nothing(monkeypatch, classes, width):
    """A model that looks at where a pixel is in its window, so that windows disagree where they overlap."""

    class Placed(Pointwise):
        def maps(self, images, unpadded):
            ramp = torch.linspace(0, 30, unpadded[1]) + torch.linspace(0, 20, unpadded[0])[:, None]
            found = self.mix(images / 255)[:, :, : unpadded[0], : unpadded[1]] * ramp
            return found if classes == 1 else found.softmax(dim=1)

    windows = {"size": (32, 40), "overlap": 0.6}
    for size in (None, (60, 300)):
        torch.manual_seed(0)
        model = Placed(classes)
        whole, banded = [], []
        for found, kept in ((whole, 1 << 26), (banded, classes * 24 * width)):
            monkeypatch.setattr("inference.maps.KEPT", kept)
            found.append(predict(classes, noise(70, 210), size, model=model, windows=windows))
        if classes == 1:
            torch.testing.assert_close(banded[0].depth, whole[0].depth)
        else:
            assert (banded[0].semantic == whole[0].semantic).float().mean() > 0.999


def test_bands_are_no_wider_than_allowed():
    columns = windows_of(1000, 1000, WindowConfig(size=(100, 100)), 1, torch.device("cpu"))
    found = list(bands(columns, 300))
    edges = [(first, end) for first, end, _ in found]
    assert edges[0][0] == 0
    assert [end for _, end in edges] == [first for first, _ in edges[1:]] + [1000]
    assert max(end - first for first, end in edges) <= 300
    for first, end, windows in found:
        assert windows == [column for column in columns if column.end > first and column.first < end]


def test_two_windows_are_blended_by_their_distance_to_the_edge():
    class Numbered(Pointwise):
        calls = 0

        def maps(self, images, unpadded):
            self.calls += 1
            return torch.full((1, 1, *unpadded), float(self.calls))

    found = predict(1, noise(16, 24), model=Numbered(1), windows={"size": (16, 16), "overlap": 0.5}).depth
    steps = torch.arange(8) + 0.5
    expected = torch.cat([torch.ones(8), 1 + steps / 8, torch.full((8,), 2.0)])
    torch.testing.assert_close(found, expected.expand(16, 24))


def test_views_of_a_model_of_single_pixels_are_turned_back():
    image = noise(40, 50)
    torch.manual_seed(0)
    model = Pointwise(1)
    with torch.no_grad():
        expected = model.mix(image[None].float())[0, 0]
    torch.testing.assert_close(predict(1, image, flip=True).depth, expected, rtol=1e-5, atol=1e-3)


def test_the_result_is_the_mean_over_views():
    class Left(Pointwise):
        """The column of each pixel, and the number of columns."""

        def maps(self, images, unpadded):
            self.sizes.append(unpadded)
            return torch.full((1, 1, *unpadded), float(unpadded[1])) + torch.arange(unpadded[1]) / unpadded[1]

    model = Left(1)
    found = predict(1, noise(40, 64), model=model, flip=True, scales=(0.5, 1, 2)).depth
    assert model.sizes == [(20, 32)] * 2 + [(40, 64)] * 2 + [(80, 128)] * 2
    middle = (32 + 64 + 128) / 3 + (31 / 32 + 63 / 64 + 127 / 128) / 6  # a ramp and its mirror image are constant
    torch.testing.assert_close(found[:, 8:-8], torch.full((40, 48), middle), rtol=1e-5, atol=1e-4)


def test_class_probabilities_are_averaged_not_labels():
    class Sure(Pointwise):
        """Class 0 with 0.6 in two views, class 1 with 0.9 in the third."""

        def maps(self, images, unpadded):
            first = 0.1 if unpadded[1] == 48 else 0.6
            return torch.tensor([first, 1 - first])[None, :, None, None].repeat(1, 1, *unpadded)

    assert (predict(2, noise(32, 32), model=Sure(2), scales=(0.5, 1, 1.5)).semantic == 1).all()
    assert (predict(2, noise(32, 32), model=Sure(2), scales=(0.5, 1)).semantic == 0).all()


def test_grey_levels_are_normalised_before_views_are_padded():
    model = Pointwise(1)
    model.maps = lambda images, unpadded: images[:, :1, : unpadded[0], : unpadded[1]].clone()
    image = noise(20, 21)
    inference = build_inference(InferenceConfig(flip=True), model, (Normalize(),), info_of(1))
    found = inference.predict(batch_of(image))[0].depth
    torch.testing.assert_close(found, (image[0] - 123.675) / 58.395)
