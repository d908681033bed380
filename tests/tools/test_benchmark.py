"""The benchmark of the upsamplers measures what it says; no test looks at a time."""

import importlib
import json
import math
import subprocess
import sys

import pytest
import torch

from benchmarks.gpu import __main__ as gpu
from errors import UserError
from tests.conftest import ROOT
from tools.benchmark import __main__ as command
from tools.benchmark import measure as benchmark
from tools.benchmark import report as benchmark_report
from tools.benchmark.__main__ import check_shape, main
from tools.benchmark.measure import Setting, Turn, build_turns, peak_bytes, quartiles
from tools.benchmark.report import draw_chart
from upsamplers import NAMES, Upsampler, build_upsampler

SHAPE = (1, 16, 6, 4)


@pytest.fixture
def call(monkeypatch):
    """The command in this process, which keeps its memory settings; copies are small."""
    monkeypatch.setattr(command, "keep_freed_memory", lambda: False)
    monkeypatch.setattr(benchmark, "COPY_BYTES", 1 << 12)
    monkeypatch.setenv("KINETO_LOG_LEVEL", "7")

    def run(*words: object) -> None:
        monkeypatch.setattr(sys, "argv", ["tools.benchmark", *map(str, words)])
        main()

    return run


@pytest.mark.filterwarnings("ignore:.* groups do not divide")
def test_json_has_every_upsampler_and_a_floor_for_each_setting(call, capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(benchmark_report, "RESULTS", tmp_path)
    shapes = ["--shape", *SHAPE, "--shape", 2, 8, 3, 3]
    call("--json", "--save", "--device", "cpu", "--dtype", "float32", "bfloat16", *shapes, "--repeats", 2)
    record = json.loads(capsys.readouterr().out)
    settings = [(setting["dtype"], setting["shape"]) for setting in record["settings"]]
    assert settings == [(dtype, shape) for dtype in ("float32", "bfloat16") for shape in (list(SHAPE), [2, 8, 3, 3])]
    for setting in record["settings"]:
        assert list(setting["upsamplers"]) == list(NAMES)
        assert setting["copy_gb_per_s"] > 0
        assert setting["floor_ms"]["forward_backward"] == pytest.approx(2 * setting["floor_ms"]["forward"], rel=1e-3)
        assert setting["machine"].keys() >= {"device", "threads", "torch", "date"}
        B, C, H, W = setting["shape"]
        for name, found in setting["upsamplers"].items():
            assert found["macs"] == B * build_upsampler(name, C).macs(H, W)
            output = B * C * 4 * H * W * (4 if setting["dtype"] == "float32" else 2) / 1e6
            for kind in ("forward", "forward_backward"):
                ms = found[kind]["ms"]
                assert 0 < ms["q1"] <= ms["median"] <= ms["q3"]
                assert found[kind]["times_floor"] == pytest.approx(ms["median"] / setting["floor_ms"][kind], rel=2e-3)
                assert found[kind]["peak_mb"] >= 0.999 * output, (name, kind)
                assert "device_ms" not in found[kind]  # a time of CUDA alone
    (saved,) = tmp_path.iterdir()
    assert json.loads(saved.read_text()) == record
    assert saved.name.endswith(f"_{record['settings'][0]['machine']['date']}.json")


def test_time_on_a_cuda_device_has_columns_of_its_own():
    cost = {"ms": {"median": 2.0, "q1": 1.0, "q3": 3.0}, "times_floor": 4.0, "peak_mb": 5.0}
    found = {"forward": cost | {"device_ms": 0.25}, "forward_backward": cost | {"device_ms": None}}
    found |= {"weights": 6, "macs": 7}
    setting = {
        "shape": SHAPE,
        "scale": 2,
        "dtype": "float32",
        "repeats": 1,
        "copy_gb_per_s": 1.0,
        "channels_last": True,
    }
    setting |= {"floor_ms": {"forward": 0.5, "forward_backward": 1.0}, "upsamplers": {"dysample": found}}
    first, heads, floor, row = benchmark_report.describe(setting | {"device": "cuda"}).splitlines()
    assert "channels_last" in first
    assert heads.count("on device") == 2
    assert row.split()[3] == "0.25"
    assert row.split()[8] == "-"
    assert len(heads) == len(row) > len(floor)
    assert "on device" not in benchmark_report.describe(setting | {"device": "cpu"})


def test_saved_settings_stand_beside_those_of_the_same_day(tmp_path, monkeypatch):
    monkeypatch.setattr(benchmark_report, "RESULTS", tmp_path)

    def setting(device: str, dtype: str, value: int) -> dict:
        about = {"device": f"A {device.upper()} (R)", "date": "2026-11-23"}
        return {"machine": about, "device": device, "dtype": dtype, "shape": list(SHAPE), "value": value}

    benchmark_report.save([setting("cpu", "float32", 1), setting("cpu", "bfloat16", 2)])
    benchmark_report.save([setting("cpu", "bfloat16", 3), setting("cuda", "float32", 4)])
    kept = {path.name: json.loads(path.read_text())["settings"] for path in tmp_path.iterdir()}
    assert {name: [one["value"] for one in settings] for name, settings in kept.items()} == {
        "upsamplers_a_cpu_r_2026-11-23.json": [1, 3],
        "upsamplers_a_cuda_r_2026-11-23.json": [4],
    }
    (tmp_path / "upsamplers_a_cpu_r_2026-11-23.json").write_text("[]")
    with pytest.raises(UserError, match=r"holds no results of tools\.benchmark; move it away"):
        benchmark_report.save([setting("cpu", "float32", 1)])


def test_unwritable_results_are_named_before_the_work(call, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setattr(benchmark_report, "RESULTS", tmp_path / "file")
    monkeypatch.setattr(command, "measure", lambda *_: pytest.fail("measured all the same"))
    with pytest.raises(UserError, match="file"):
        call("--device", "cpu", "--save")


def test_gpu_command_records_a_part_that_fails_and_goes_on(monkeypatch, tmp_path):
    def run(*words: str) -> subprocess.CompletedProcess[str]:
        outputs = {"pytest": (5, ""), "tools.benchmark": (0, '{"settings": []}'), "train.py": (2, "")}
        code, text = next((outputs[word] for word in words if word in outputs), (1, "Traceback\n"))
        return subprocess.CompletedProcess([], code, text)

    monkeypatch.setattr(gpu, "run", run)
    monkeypatch.setattr(gpu, "RESULTS", tmp_path)
    monkeypatch.setattr(gpu, "machine", lambda device: {"device": "A GPU", "date": "2026-11-23"})
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(SystemExit) as stop:
        gpu.main()
    assert stop.value.code == 1
    record = json.loads((tmp_path / "gpu_a_gpu_2026-11-23.json").read_text())
    assert record["upsamplers"] == {"settings": []}
    assert record["upsamplers_channels_last"] == {"settings": []}
    assert record["segformer_step"] == record["detector_step"] == record["sampler"] == {"exit_code": 1}
    assert record["training_seg"] == record["training_depth"] == {"exit_code": 2}
    assert record["tests"] == {"exit_code": 5, "summary": ""}


@pytest.mark.slow
def test_the_step_of_segformer_is_measured_from_anywhere(tmp_path):
    script = ROOT / "benchmarks/segformer_step.py"
    small = ["--size", "64", "--batch", "1", "--rounds", "1", "--steps", "1", "--backbone", "mit_b0"]
    command = [sys.executable, script, *small, "--upsamplers", "dysample", "--device", "cpu"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["results"]["dysample"]["median_s"] > 0


@pytest.mark.parametrize("name", ["segformer_step", "detector_step", "maskformer_step", "evaluation.panoptic_quality"])
def test_counts_of_the_other_benchmarks_are_checked(monkeypatch, capsys, name):
    monkeypatch.setattr(sys, "argv", [name, "--rounds", "0"])
    with pytest.raises(SystemExit) as stop:
        importlib.import_module(f"benchmarks.{name}").main()
    assert stop.value.code == 2
    assert "argument --rounds: must be 1 or more, got 0" in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore:.* groups do not divide")
def test_floor_is_the_traffic_at_the_bandwidth_of_the_copy(monkeypatch):
    monkeypatch.setattr(benchmark, "milliseconds", lambda call, device: 4.0)
    monkeypatch.setattr(benchmark, "COPY_BYTES", 1000)  # 2000 bytes in 4 ms
    monkeypatch.setattr(benchmark, "peak_bytes", lambda call, device: 5_000_000)
    found = benchmark.measure(Setting("cpu", "bfloat16", SHAPE), repeats=3)
    numbers = math.prod(SHAPE) * (1 + 4)
    assert found["floor_ms"]["forward"] == pytest.approx(numbers * 2 / 500, rel=1e-3)
    assert found["copy_gb_per_s"] == pytest.approx(500 / 1e6)
    assert found["upsamplers"]["carafe"]["forward"]["times_floor"] == pytest.approx(4 * 500 / (numbers * 2), rel=1e-3)
    assert found["upsamplers"]["carafe"]["forward"]["peak_mb"] == 5


def test_peak_counts_what_is_held_at_once():
    def one_after_the_other() -> None:
        for _ in range(3):
            torch.ones(250_000)

    def together() -> list[torch.Tensor]:
        return [torch.ones(250_000) for _ in range(3)]

    before = torch.ones(250_000)
    assert peak_bytes(one_after_the_other, "cpu") == pytest.approx(1e6, rel=0.01)
    assert peak_bytes(together, "cpu") == pytest.approx(3e6, rel=0.01)
    assert peak_bytes(lambda: before.add_(1), "cpu") < 1000


class _Witness(Upsampler):
    """Notes how it is called."""

    def __init__(self, uses_guide: bool) -> None:
        super().__init__(4)
        self.weight = torch.nn.Parameter(torch.ones(1))
        self.uses_guide = uses_guide  # type: ignore[misc]
        self.modes: list[tuple[bool, bool]] = []

    def upsample(self, x, guide):
        self.modes.append((self.training, torch.is_grad_enabled()))
        x = self.weight * x.repeat_interleave(2, 2).repeat_interleave(2, 3)
        return x + guide if self.uses_guide else x

    def macs(self, height, width):
        return 0


@pytest.mark.parametrize("uses_guide", [False, True])
def test_turn_predicts_without_gradients_and_trains_with_all(uses_guide):
    upsampler = _Witness(uses_guide)
    setting = Setting("cpu", "float32", (1, 4, 2, 3))
    x, guide = setting.random(setting.shape), setting.random(setting.output_shape)
    turn = Turn(upsampler, x, guide, torch.ones(setting.output_shape))
    turn.forward()
    _, gradients = turn.forward_backward()
    assert upsampler.modes == [(False, False), (True, True)]
    assert [tuple(gradient.shape) for gradient in gradients] == [x.shape, *([guide.shape] if uses_guide else []), (1,)]
    assert (gradients[0] == 4).all()  # each pixel of x is read four times
    assert x.grad is None


def test_upsamplers_share_their_inputs():
    turns = build_turns(Setting("cpu", "float32", (1, 32, 2, 2)))
    assert len({(id(turn.x), id(turn.guide), id(turn.gradient)) for turn in turns.values()}) == 1


def test_quartiles():
    assert quartiles([3, 1, 2, 5, 4]) == {"median": 3, "q1": 2, "q3": 4}
    assert quartiles([7.0]) == {"median": 7, "q1": 7, "q3": 7}


def test_chart_has_a_mark_for_every_upsampler(tmp_path):
    pytest.importorskip("matplotlib")
    ms = {"median": 1.0, "q1": 0.9, "q3": 1.2}
    found = {name: {"macs": index, "forward": {"ms": ms, "peak_mb": 3}} for index, name in enumerate(NAMES)}
    setting = {"shape": list(SHAPE), "dtype": "float32", "floor_ms": {"forward": 0.1}, "upsamplers": found}
    draw_chart(tmp_path / "chart.svg", [{**setting, "machine": {"device": "a machine"}}] * 2)
    text = (tmp_path / "chart.svg").read_text()
    for name in NAMES:  # text is drawn as paths, each named in a comment
        assert text.count(f"<!-- {name}, ") == 2


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--shape", 1, 0, 4, 4], "--shape 1 0 4 4: is too small"),
        (["--shape", 1, 16, 1, 4], "--shape 1 16 1 4: is too small"),
        (["--shape", 1, 6, 4, 4], "channels divisible by 4"),
        (["--shape", 1, 256, 1000000, 1000000], "needs more than"),
        (["--shape", 1, 16, 4], "--shape: expected 4 arguments"),
        (["--repeats", 0], "--repeats 0: is not a number of rounds"),
        (["--chart", "chart.txt"], "--chart chart.txt: is not the name of a chart"),
        (["--dtype", "int8"], "invalid choice: 'int8'"),
    ],
)
@pytest.mark.filterwarnings("ignore:.* groups do not divide")
def test_bad_input_is_named(call, words, complaint):
    with pytest.raises(UserError) as caught:
        call("--device", "cpu", *words)
    assert complaint in str(caught.value)


@pytest.mark.skipif(torch.cuda.is_available(), reason="has CUDA")
def test_missing_cuda_is_named(call):
    with pytest.raises(UserError, match="PyTorch sees no CUDA device"):
        call("--device", "cuda")


def test_shape_that_fits_passes():
    assert check_shape([1, 256, 120, 120], "float32", "cpu") == (1, 256, 120, 120)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_time_on_the_device_is_that_of_kernels_and_null_where_a_call_waits():
    turn = build_turns(Setting("cuda", "float32", (1, 64, 30, 30)))["dysample"]
    for call in (turn.forward, turn.forward_backward):
        assert benchmark.device_milliseconds(call) > 0
    assert benchmark.device_milliseconds(lambda: turn.x.sum().item()) is None
    assert benchmark.device_milliseconds(turn.forward) > 0  # a failed recording leaves no trace
