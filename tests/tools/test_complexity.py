"""Parameters and MACs against the paper's Table 4 (SegFormer-B1, 150 classes, 512 x 512)."""

import functools
import json
from pathlib import Path

import pytest

from errors import UserError
from experiment import load_experiment
from models.cost import complexity, shapes_only
from tests.conftest import some
from tools.benchmark.measure import peak_bytes
from tools.tables.counts import HOSTS, added_macs, count

CFG = Path(__file__).parents[2] / "configs/seg_dysample.yaml"
BASELINE = 13_715_798

# Increment in parameters, all and conv weights only, and the paper's figures: parameters as printed, GFLOPs added.
TABLE_4 = {
    "nearest": (0, 0, "0.0M", None),
    "deconv": (3_540_480, 3_538_944, "3.5M", 34.4),
    "pixelshuffle": (14_161_920, 14_155_776, "14.2M", 34.4),
    "carafe": (444_888, 443_904, "0.4M", 1.5),
    "indexnet": (12_601_344, 12_595_200, "12.6M", None),  # 30.65 G, which the paper rounds once more, to 30.7
    "a2u": (64_740, 58_368, "0.1M", 0.4),
    "sapa": (104_832, 98_304, "0.1M", 1.0),
    "dysample-s": (6_240, 6_144, "6.1K", 0.2),
    "dysample-s+": (12_384, 12_288, "12.3K", 0.3),
    "dysample": (49_344, 49_152, "49.2K", 0.3),
    "dysample+": (98_496, 98_304, "0.1M", 0.4),
    "fade": (283_542, 283_008, "0.3M", None),  # the printed 2.7 G are those of the gated operator
}


@functools.cache
def counts(upsampler: str) -> dict:
    experiment = load_experiment(CFG, [f"model.upsampler={upsampler}"])
    with shapes_only():
        model = experiment.build_model()
    return complexity(model, experiment.padded_input(model))


def test_bilinear_baseline():
    found = counts("bilinear")
    assert found["params"] == found["params_trainable"] == BASELINE
    assert round(found["macs"] / 1e9, 1) == 15.9
    assert found["input"] == [3, 512, 512]


@pytest.mark.parametrize("name", TABLE_4)
def test_increments_of_table_4(name):
    everything, weights, printed, gflops = TABLE_4[name]
    host = HOSTS[4][""]
    found = count(host, name)
    assert found.total == BASELINE + everything
    assert (found.added, found.weights) == (everything, weights)
    unit = 1e3 if printed.endswith("K") else 1e6
    assert f"{weights / unit:.1f}" == printed[:-1]
    if gflops is not None:
        assert round(added_macs(host, name) / 1e9, 1) == gflops


@pytest.mark.parametrize("name", some(["carafe", "deconv", "dysample", "sapa"], "carafe", "dysample"))
def test_whole_models_are_counted_with_the_same_increments(name):
    found, (everything, weights, _, gflops) = counts(name), TABLE_4[name]
    assert found["params"] == BASELINE + everything
    upsamplers = found["upsamplers"]
    assert (upsamplers["count"], upsamplers["params"], upsamplers["weights"]) == (6, everything, weights)
    assert round(upsamplers["macs"] / 1e9, 1) == gflops


def test_indexnet_has_the_flops_that_are_published_with_two_digits():
    assert round(added_macs(HOSTS[4][""], "indexnet") / 1e9, 2) == 30.65


def test_gated_fade_has_the_printed_flops():
    assert round(added_macs(HOSTS[4][""], "{name: fade, gate: true}") / 1e9, 1) == 2.7


def test_command_prints_json(here, capsys):
    here("tools.complexity", "--cfg", CFG, "--json")
    found = json.loads(capsys.readouterr().out)
    assert found["params"] == BASELINE + 12_384
    assert set(found) == {"params", "params_trainable", "macs", "input", "upsamplers"}
    assert set(found["upsamplers"]) == {"count", "params", "weights", "macs"}


@pytest.mark.parametrize(
    ("size", "complaint"),
    [
        ((5, 5), r"--size 5 5: images of \(5, 5\) pixels; MiT needs at least 29 a side; use a larger size"),
        ((0, 64), "--size 0 64: is not positive"),
        ((20000, 30000), "--size 20000 30000: has 600,000,000 pixels"),
    ],
)
def test_sizes_that_cannot_be_counted_are_named(here, size, complaint):
    with pytest.raises(UserError, match=complaint):
        here("tools.complexity", "--cfg", CFG, "--size", *size)


def test_counting_takes_no_memory_for_the_image():
    model = load_experiment(CFG, ["model.upsampler=bilinear"]).build_model()
    size = (256, 320)
    assert peak_bytes(lambda: complexity(model, size), "cpu") < size[0] * size[1]  # far less than the image alone


@pytest.mark.parametrize("demo", some(["det", "inst", "pan", "depth", "maskformer"], "pan", "depth", "maskformer"))
def test_every_model_is_counted(demo):
    experiment = load_experiment(CFG.parent / f"small/{demo}.yaml", ["model.upsampler=dysample"])
    model = experiment.build_model()
    found = complexity(model, (64, 64))
    assert found["macs"] > found["upsamplers"]["macs"] > 0
    assert found["params"] == sum(parameter.numel() for parameter in model.parameters())
