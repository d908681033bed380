import pytest
import torch
from torch.nn import functional as F

from models.layers import resize
from models.layers.resize import resized_argmax


@pytest.mark.parametrize("at_once", [1, 3 * 50 * 70, 1 << 22])
@pytest.mark.parametrize("original", [(50, 70), (30, 44), (17, 90)])
def test_running_argmax_equals_the_plain_one(
    at_once: int, original: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resize, "_CHUNK_ELEMENTS", at_once)
    logits = torch.randn(11, 8, 12, generator=torch.Generator().manual_seed(0))
    full = F.interpolate(logits[None], size=(32, 48), mode="bilinear")[:, :, :30, :44]
    expected = F.interpolate(full, size=original, mode="bilinear")[0].argmax(dim=0)
    classes = resized_argmax(logits, (32, 48), (30, 44), original)
    assert classes.dtype == torch.int16
    assert torch.equal(classes.long(), expected)


@pytest.mark.parametrize("at_once", [1, 1 << 22])
def test_of_equal_classes_the_lowest_wins(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resize, "_CHUNK_ELEMENTS", at_once)
    logits = torch.zeros(5, 4, 4)
    logits[2:4] = 1
    assert resized_argmax(logits, (16, 16), (16, 16), (9, 9)).unique().tolist() == [2]
