from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from datasets.files import png as module
from datasets.files.png import checked_png
from tests.datasets.png import GREY, PALETTE, RGB, RGBA, chunk, png


@pytest.mark.parametrize("pieces", [1, 4])
@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize(("bits", "color"), [(1, GREY), (8, GREY), (16, GREY), (8, RGB), (8, RGBA), (4, PALETTE)])
def test_a_checked_png_has_the_same_content(bits: int, color: int, interlaced: bool, pieces: int) -> None:
    channels = {RGB: (3,), RGBA: (4,)}.get(color, ())
    values = np.random.default_rng(0).integers(0, 2**bits, (11, 9, *channels))
    text = chunk(b"tEXt", b"key\0value")
    extra = text + (chunk(b"PLTE", bytes(range(48))) if color == PALETTE else b"")
    data = png(values, bits, color, interlaced=interlaced, extra=extra, pieces=pieces)
    checked = checked_png(data)
    before, after = Image.open(BytesIO(data)), Image.open(BytesIO(checked))
    assert np.array_equal(np.asarray(before), np.asarray(after))
    assert (after.mode, after.getpalette(), after.info) == (before.mode, before.getpalette(), before.info)
    assert after.info["key"] == "value"
    assert checked_png(checked) == checked  # the checksums hold


def test_the_decoder_gets_pixels_uncompressed_unless_they_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    data = png(np.zeros((100, 100), np.int64))
    assert len(data) < 200
    assert len(checked_png(data)) > 100 * 100
    monkeypatch.setattr(module, "MAX_STORED", 100 * 100)
    assert checked_png(data) is data
