"""Whole predictions of all models, small, as files that are proven. Their random decisions have margins."""

import pytest

from tests.tools.export_onnx.test_models import MIT, SETTINGS, build, prove
from tools.export_onnx.full import full_graph
from tools.export_onnx.graph import free_size
from tools.export_onnx.proof import reference

pytestmark = pytest.mark.slow  # tracing takes seconds to minutes

FEW = ["model.rpn.before_nms_test=60", "model.rpn.proposals=30", "model.box_head.min_score=0.1"]
MORE = {"det": FEW, "inst": FEW, "pan": [*FEW, "model.fusion.min_stuff_area=1"]}
PANOPTIC = "maskformer_r50_panoptic"  # the other kind of prediction of MaskFormer
MORE[PANOPTIC] = ["model.size_divisor=32", "model.channels=32", "model.queries=10", "model.layers=1", "model.hidden=64"]
MORE[PANOPTIC] += ["model.partition={min_score: 0.3, min_visible: 0.1}", "model.encoder_layers=1"]
CASES = [*SETTINGS, PANOPTIC]
SCALES = {"box_head.classifier": 100, "rpn.objectness": 100, "rpn.deltas": 10, "classifier": 10}
OUTPUTS = {"det": 3, "inst": 4, "pan": 2, PANOPTIC: 2}


def decided(cfg):
    """A model whose scores are far apart, so that rounding does not choose between proposals or classes."""
    experiment, model = build(cfg, SETTINGS.get(cfg, MIT), *MORE.get(cfg, []))
    for name, module in model.named_modules():
        if name in SCALES and "depth" not in cfg:
            module.weight.data *= SCALES[name]
    return experiment, model


def check(path, cfg, *, dynamic):
    experiment, model = decided(cfg)
    size = free_size(model, (64, 96)) if dynamic else (64, 96)
    graph = full_graph(model, size)
    found = reference(graph, graph.inputs)
    assert len(found) == OUTPUTS.get(cfg, 1)
    assert all(value.size for value in found.values())  # there is something to compare
    done = prove(path, experiment, model, graph, dynamic=dynamic)
    assert done.metadata.format == "full"
    return done.metadata.verified


@pytest.mark.parametrize("cfg", CASES)
def test_a_whole_prediction_is_proven_at_one_size(tmp_path, cfg):
    assert check(tmp_path / "model.onnx", cfg, dynamic=False)["runtime"].startswith("onnxruntime")


@pytest.mark.parametrize("cfg", CASES)
def test_a_whole_prediction_is_proven_at_free_sizes(tmp_path, cfg):
    verified = check(tmp_path / "model.onnx", cfg, dynamic=True)
    assert len({tuple(size) for size in verified["inputs"]}) == 3
