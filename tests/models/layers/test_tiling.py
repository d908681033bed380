"""Maps worked on some rows at a time equal those worked on as a whole."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from models.backbones.mit import MiT
from models.backbones.swin import Swin
from models.layers import tiling
from models.layers.tiling import apply_by_rows
from models.segformer.model import SegFormerConfig
from structures import DatasetInfo


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every map is large, and worked on row by row."""
    monkeypatch.setattr(tiling, "_UNTILED_ELEMENTS", 0)
    monkeypatch.setattr(tiling, "_TILE_ELEMENTS", 1)


def blurred(x: Tensor) -> Tensor:
    """Each pixel and its neighbours, zeros beyond the map."""
    return F.avg_pool2d(x.permute(0, 3, 1, 2), 3, 1, 1).permute(0, 2, 3, 1)


@pytest.mark.parametrize("at_once", [1, 100, 200, 10_000])
def test_parts_equal_the_whole(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiling, "_UNTILED_ELEMENTS", 0)
    monkeypatch.setattr(tiling, "_TILE_ELEMENTS", at_once)
    x = torch.randn(2, 7, 5, 3, generator=torch.Generator().manual_seed(0))
    seen = []

    def function(part: Tensor) -> Tensor:
        seen.append(part.shape[1])
        return blurred(part)

    with torch.no_grad():
        torch.testing.assert_close(apply_by_rows(function, x, 10, margin=1), blurred(x))
        total = torch.ones_like(x)
        assert apply_by_rows(function, x, 10, margin=1, total=total) is total
        torch.testing.assert_close(total, blurred(x) + 1)
    assert max(seen) <= max(1, at_once // 50) + 2


def test_with_a_gradient_nothing_is_cut(few: None) -> None:
    x = torch.randn(1, 6, 4, 3, requires_grad=True)
    calls: list[Any] = []
    apply_by_rows(lambda part: calls.append(part.shape) or part, x, 10)
    assert calls == [x.shape]


@pytest.mark.parametrize("upsampler", ["bilinear", "dysample-s+", "fade"])
def test_networks_do_not_depend_on_it(upsampler: str, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = {"name": "mit_b0", "channels": [8, 16, 20, 32], "depths": [1, 1, 1, 1]}
    config = SegFormerConfig.model_validate({"backbone": backbone, "upsampler": upsampler, "channels": 32})
    torch.manual_seed(0)
    segformer = config.build(DatasetInfo("semantic", "test", ("wall", "floor", "door"))).eval()
    images = torch.randn(2, 3, 70, 93)
    with torch.inference_mode():
        whole = segformer.outputs(images)["logits"]
        monkeypatch.setattr(tiling, "_UNTILED_ELEMENTS", 0)
        monkeypatch.setattr(tiling, "_TILE_ELEMENTS", 1)
        torch.testing.assert_close(segformer.outputs(images)["logits"], whole)


@pytest.mark.parametrize("backbone", [MiT((8, 16, 20, 32), (1, 1, 1, 1)), Swin(32, (2, 2, 2, 2), 4)])
def test_backbones_do_not_depend_on_it(backbone: torch.nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    images = torch.randn(2, 3, 70, 93, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        whole = backbone.eval()(images)
        monkeypatch.setattr(tiling, "_UNTILED_ELEMENTS", 0)
        monkeypatch.setattr(tiling, "_TILE_ELEMENTS", 1)
        torch.testing.assert_close(backbone(images), whole)
