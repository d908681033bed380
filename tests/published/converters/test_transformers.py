"""Converted models give the logits of the library transformers, in double precision and for random weights.

The library is not installed with the others: `pip install transformers` into a scratch environment, then
`pytest -m slow -s tests/published/converters/test_transformers.py` there prints the largest differences.
"""

import json
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter
from torch import Tensor, nn

from models import ModelConfig
from models.base import DenseModel
from models.weights import load_state
from published.converters.reading import read_published
from published.converters.sources import convert
from structures import DatasetInfo

pytestmark = pytest.mark.slow
CLASSES = 5
INFO = DatasetInfo("semantic", "any", tuple(map(str, range(CLASSES))))
ROUNDING = 1e-12  # of the largest logit, in double precision
FLOAT_POSITIONS = 1e-7  # the same for MaskFormer, whose position embeddings we compute in single precision
RELEASED_EPS = (
    1e-6  # of the norms in blocks and of stages, in the SegFormer release, for which the weights were trained
)


@pytest.fixture
def transformers(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return pytest.importorskip("transformers", reason="transformers is not installed, which has the other models")


@torch.no_grad()
def randomized(model: Any) -> Any:
    """The same model in evaluation, with norms and statistics that do something."""
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d) or hasattr(module, "running_var"):
            module.running_mean.normal_(0, 0.1, generator=generator)
            module.running_var.uniform_(0.5, 1.5, generator=generator)
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1:
            parameter.normal_(float("norm" in name and name.endswith("weight")), 0.1, generator=generator)
        elif "relative_position_bias" in name or "quer" in name:
            parameter.normal_(0, 0.5, generator=generator)
    return model.eval()


def published(model: Any, folder: Path) -> dict[str, Tensor]:
    """The tensors of the file that the library writes, which has the names of the hub's files."""
    model.save_pretrained(folder)
    return read_published(folder / "model.safetensors")[0]


def build(options: dict[str, Any], tensors: dict[str, Tensor]) -> DenseModel:
    model: DenseModel = TypeAdapter(ModelConfig).validate_python(options).build(INFO, pretrained=False)
    load_state(model, tensors, "test")
    return model.double().eval()


def assert_same(case: str, found: Tensor, expected: Tensor, tolerance: float) -> None:
    assert expected.std() > 0.01
    difference = ((found - expected).abs().max() / expected.abs().max()).item()
    print(f"{case}: differ by at most {difference:.1e} of the largest logit")
    assert difference < tolerance


@pytest.mark.parametrize(
    ("backbone", "widths", "depths", "embedding"),
    [
        ("mit_b0", (32, 64, 160, 256), (2, 2, 2, 2), 256),
        ("mit_b1", (64, 128, 320, 512), (2, 2, 2, 2), 256),
        ("mit_b2", (64, 128, 320, 512), (3, 4, 6, 3), 768),
    ],
)
def test_a_segformer(
    transformers: ModuleType,
    backbone: str,
    widths: tuple[int, ...],
    depths: tuple[int, ...],
    embedding: int,
    tmp_path: Path,
) -> None:
    torch.manual_seed(0)
    config = transformers.SegformerConfig(
        hidden_sizes=list(widths), depths=list(depths), decoder_hidden_size=embedding, num_labels=CLASSES
    )
    reference = randomized(transformers.SegformerForSemanticSegmentation(config))
    kind, tensors, _ = convert("huggingface", published(reference, tmp_path), "test")
    assert kind == f"segformer_{backbone}"
    options = {"name": "segformer", "backbone": backbone, "upsampler": "bilinear", "channels": embedding}
    model, images = build(options, tensors), torch.randn(2, 3, 96, 160, dtype=torch.float64)
    with torch.no_grad():
        logits = model.outputs(images)["logits"]
        assert_same(f"{kind}, eps of the library", logits, reference.double()(images).logits, 1e-5)
        for name, module in reference.named_modules():
            if isinstance(module, nn.LayerNorm) and not name.endswith(
                ("embeddings.layer_norm", "reduction.layer_norm")
            ):
                module.eps = RELEASED_EPS
        assert_same(f"{kind}, eps of the release", logits, reference(images).logits, ROUNDING)


def swin(transformers: ModuleType) -> Any:
    return transformers.SwinConfig(
        embed_dim=96,
        depths=[2, 2, 6, 2],
        num_heads=[3, 6, 12, 24],
        window_size=7,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )


def resnet(transformers: ModuleType) -> Any:
    return transformers.ResNetConfig(out_features=["stage1", "stage2", "stage3", "stage4"])


@pytest.mark.parametrize("backbone", [swin, resnet])
def test_a_maskformer(transformers: ModuleType, backbone: Any, tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = transformers.MaskFormerConfig(
        backbone_config=backbone(transformers),
        decoder_config=transformers.DetrConfig(decoder_layers=3, num_queries=7, decoder_ffn_dim=512),
        num_labels=CLASSES,
    )
    reference = randomized(transformers.MaskFormerForInstanceSegmentation(config))
    kind, tensors, remark = convert("huggingface", published(reference, tmp_path), "test")
    found = re.search(r"model: (\{.*\});", remark)
    assert found
    model, images = build(json.loads(found[1]), tensors), torch.randn(2, 3, 128, 160, dtype=torch.float64)
    with torch.no_grad():
        ours, theirs = model.outputs(images), reference.double()(images)
    assert_same(f"{kind}, classes", ours["class_logits"], theirs.class_queries_logits, FLOAT_POSITIONS)
    assert_same(f"{kind}, masks", ours["mask_logits"], theirs.masks_queries_logits, FLOAT_POSITIONS)
