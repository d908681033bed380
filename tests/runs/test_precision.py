"""What `precision` switches: TF32 on CUDA. The switches can be read everywhere, so no GPU is needed."""

import pytest
import torch

from experiment import load_experiment
from models.segformer.model import SegFormer
from tests.conftest import ROOT

SEG = ROOT / "configs/small/seg.yaml"


def switches() -> tuple[bool, bool]:
    return torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32


@pytest.mark.parametrize(
    ("precision", "tf32", "cast"), [("fp32", False, False), ("tf32", True, False), ("bf16", False, True)]
)
def test_products_and_convolutions_are_as_the_precision_says(precision, tf32, cast):
    experiment, before = load_experiment(SEG, [f"precision={precision}"]), switches()
    assert before == (False, True)  # PyTorch's own defaults, which are neither fp32 nor tf32
    with experiment.arithmetic(torch.device("cpu")):
        assert switches() == (tf32, tf32)
        assert torch.is_autocast_enabled("cpu") == cast
    assert switches() == before


@pytest.mark.parametrize("precision", ["fp32", "tf32"])
def test_training_evaluation_and_gradients_use_it(precision, tiny, tmp_path, here, monkeypatch):
    found = {}

    def record(name):
        original = getattr(SegFormer, name)

        def recorded(model, batch):
            found[name] = switches()
            result = original(model, batch)
            if name == "forward":
                result["loss_ce"].register_hook(lambda _: found.update(backward=switches()))
            return result

        monkeypatch.setattr(SegFormer, name, recorded)

    record("forward")
    record("predict")
    here("train", "--cfg", SEG, *tiny, "steps=1", f"precision={precision}")
    expected = (precision == "tf32",) * 2
    assert found == dict.fromkeys(("forward", "backward", "predict"), expected)
    found.clear()
    here("eval", "--checkpoint", tmp_path / "seg")
    assert found == {"predict": expected}
    assert switches() == (False, True)
