"""The pictures of the showcase, of a model that has hardly trained."""

import numpy as np
from PIL import Image

from experiment import load_experiment
from tests.conftest import ROOT
from tools.showcase.learning import animate, learn
from tools.showcase.panels import GAP, HEIGHT, POINT, WIDTH, caption, draw_sampling, mark

REGION = (16, 8, 32, 24)
SEG = ROOT / "configs/small/seg.yaml"


def test_the_sampling_points_of_a_region_are_drawn(tiny):
    experiment = load_experiment(SEG, tiny)
    model, image = experiment.build_model().train(), np.full((48, 64, 3), 128, np.uint8)
    panel = draw_sampling(model, experiment, image, REGION)
    assert panel.shape == (HEIGHT, WIDTH, 3)
    points = (panel == np.array(POINT)).all(axis=2)
    assert points.sum() > 8 * 6 * 10  # two points for each four pixels, along both sides
    assert model.training


def test_a_caption_and_a_frame_are_written_on_the_panel():
    panel = np.full((HEIGHT, WIDTH, 3), 100, np.uint8)
    written = caption(panel.copy(), "image")
    assert (written[HEIGHT // 2 :] == 100).all()
    assert written[2, 2].tolist() == [25, 25, 25]
    framed = mark(panel.copy(), (16, 12, 32, 24), np.zeros((48, 64, 3)))
    assert framed[HEIGHT // 4, WIDTH // 2].tolist() == [255, 255, 255]
    assert framed[HEIGHT // 2, WIDTH // 2].tolist() == [100, 100, 100]


def test_a_stopped_animation_goes_on_where_it_was(tiny, tmp_path, monkeypatch):
    """Six steps, and the same in two starts."""
    monkeypatch.setattr("tools.showcase.learning.FRAME_EVERY", 2)
    monkeypatch.setattr("tools.showcase.learning.SAVE_EVERY", 2)
    image = np.random.default_rng(0).integers(0, 256, (48, 64, 3)).astype(np.uint8)
    whole = learn(SEG, image, REGION, [*tiny, "system.reuse_memory=false"])
    assert [path.stem for path in whole] == ["00000", "00002", "00004", "00006"]
    first = [path.read_bytes() for path in whole]
    whole[-1].unlink()
    again = learn(SEG, image, REGION, tiny)
    assert [path.read_bytes() for path in again] == first
    animate(again, tmp_path / "learning.webp", 240)
    with Image.open(tmp_path / "learning.webp") as animation:
        assert animation.n_frames == 4
        assert animation.size == (240, round(240 * HEIGHT / (2 * WIDTH + GAP)))
