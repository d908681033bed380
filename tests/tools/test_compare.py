"""tools.compare: what makes it fair, whole comparisons of tiny runs, its words, its refusals."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from scipy import stats

import tools.compare.__main__ as command
from errors import Interrupted, UserError, run_command
from experiment import load_experiment
from runtime.checkpoint import load_checkpoint
from runtime.state import DIVERGED
from tests import launch
from tests.conftest import ROOT, TINY, logged, read
from tools.compare.report import compare_repeat, describe_repeat, markdown, verdict
from tools.compare.runs import _check_end, current_commit, run_all, run_places
from tools.compare.statistics import mean
from upsamplers import Upsampler

CFG = str(ROOT / "configs/small/seg.yaml")
DEMOS = ("seg", "maskformer", "det", "inst", "pan", "depth")
SHORT = ["steps=2", "evaluation.every=2", "evaluation.pictures=0", "system.reuse_memory=false"]

# --- what is equal between two variants ------------------------------------------------------------------------------


def shared_state(demo: str, upsampler: str) -> dict[str, torch.Tensor]:
    """All parameters and buffers of a model with seed 3 but for those of its upsamplers."""
    options = [f"model.upsampler={upsampler}", "seed=3"]
    model = load_experiment(ROOT / f"configs/small/{demo}.yaml", options).build_model()
    own = tuple(f"{name}." for name, module in model.named_modules() if isinstance(module, Upsampler))
    assert own
    return {name: value for name, value in model.state_dict().items() if not name.startswith(own)}


@pytest.mark.parametrize("demo", DEMOS)
def test_models_with_one_seed_start_equal_outside_the_upsamplers(demo):
    first = shared_state(demo, "nearest")
    assert sum(value.numel() for value in first.values()) > 100_000
    for upsampler in ("dysample+", "fade"):
        second = shared_state(demo, upsampler)
        assert first.keys() == second.keys()
        assert not [name for name in first if not torch.equal(first[name], second[name])]


# --- whole comparisons -----------------------------------------------------------------------------------------------


class Forked:
    """Stands in for Popen: the same command, forked from a process that has imported all. `signal_at`: see below."""

    signal_at: int | None = None  # this process gets SIGTERM once the log of a run has so many lines

    def __init__(self, words: list[str], stdout: object, **_: object) -> None:
        self.output, self.returncode = Path(stdout.name), None
        self.running = launch.start("train", *words[2:])

    def poll(self) -> int | None:
        log = self.output.with_name("log.jsonl")
        if Forked.signal_at and log.exists() and len(log.read_text().splitlines()) >= Forked.signal_at:
            Forked.signal_at = None
            os.kill(os.getpid(), signal.SIGTERM)
        if self.returncode is None and self.running.processes[0].exitcode is not None:
            done = self.running.wait()
            self.output.write_text(done.out + done.err)
            self.returncode = done.code
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            self.running.send(number)

    def wait(self) -> None:
        self.running.wait()
        self.poll()


def call_here(monkeypatch: pytest.MonkeyPatch, main: Callable[[], None], *words: object) -> None:
    """Run a command in this process, with its runs forked from another."""
    monkeypatch.setattr("tools.compare.runs.Popen", Forked)
    monkeypatch.setattr(sys, "argv", list(map(str, words)))
    threads = torch.get_num_threads()
    try:
        main()
    finally:
        torch.set_num_threads(threads)


def compare(monkeypatch: pytest.MonkeyPatch, *words: object) -> None:
    call_here(monkeypatch, command.main, "tools.compare", "--cfg", CFG, *words)


@pytest.fixture(scope="module")
def compared(scenes, tmp_path_factory):
    """The words and the folder of a finished comparison, two runs at a time."""
    out = tmp_path_factory.mktemp("compared") / "out"
    words = [*TINY, *SHORT, f"data.root={scenes}/ADEChallengeData2016", "--upsamplers", "nearest,dysample+"]
    words += ["--out", out]
    with pytest.MonkeyPatch.context() as monkeypatch:
        compare(monkeypatch, *words, "--seeds", 2, "--jobs", 2)
    return words, out


@pytest.fixture
def copied(compared, tmp_path):
    """The same as `compared`, in a folder that a test may change."""
    words, out = compared
    return [*words[:-1], shutil.copytree(out, tmp_path / "out")], tmp_path / "out"


def final(folder: Path, metric: str = "mIoU") -> float:
    return logged(folder, "val")[-1][metric]


def test_report_holds_the_last_scores_and_their_paired_test(compared):
    _, out = compared
    report = read(out / "report.json")
    first, second = ([final(out / name / f"seed_{seed}") for seed in (0, 1)] for name in ("nearest", "dysample+"))
    nearest, dysample = report["variants"]
    assert (nearest["scores"], dysample["scores"]) == (first, second)
    assert nearest["comparison"] is None
    found, expected = dysample["comparison"], stats.ttest_rel(second, first)
    assert (found["p"], found["p_corrected"]) == pytest.approx((expected.pvalue, expected.pvalue))
    assert found["interval"] == pytest.approx(list(expected.confidence_interval()))
    assert found["difference"] == pytest.approx(sum(second) / 2 - sum(first) / 2)
    assert dysample["metrics"]["aAcc"] == [final(out / "dysample+" / f"seed_{seed}", "aAcc") for seed in (0, 1)]
    assert (report["metric"], report["lower_is_better"], report["step"], report["threads"]) == ("mIoU", False, 2, 1)


def test_report_has_a_control_with_other_seeds_and_an_equal_repeat(compared):
    _, out = compared
    report = read(out / "report.json")
    assert (report["control"]["name"], report["control"]["seeds"]) == ("nearest again", [2, 3])
    assert report["control"]["scores"] == [final(out / "nearest" / f"seed_{seed}") for seed in (2, 3)]
    expected = stats.ttest_ind(report["control"]["scores"], report["variants"][0]["scores"], equal_var=False)
    assert report["control"]["comparison"]["p"] == pytest.approx(expected.pvalue)
    assert report["repeat"] == {"seed": 0, "equal": True, "numbers": 4, "largest_difference": 0}


def test_report_names_the_commits_that_the_runs_were_started_at(copied, monkeypatch):
    words, out = copied
    assert {path.parent.name for path in out.glob("nearest/*/commit.txt")} == {f"seed_{n}" for n in "0123"} | {
        "seed_0_again"
    }
    assert read(out / "report.json")["commit"] == current_commit()
    (out / "dysample+/seed_1/commit.txt").write_text("zzz\n")
    (out / "nearest/seed_3/commit.txt").unlink()
    compare(monkeypatch, *words, "--seeds", 2)
    assert read(out / "report.json")["commit"] == f"{current_commit()}, unknown, zzz"


def test_commit_is_marked_by_changed_code_but_not_by_results(tmp_path, monkeypatch):
    monkeypatch.setattr("tools.compare.runs.TRAIN", tmp_path / "train.py")
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert current_commit() == "unknown"

    def git(*words: str) -> str:
        own = ["-c", "user.name=a", "-c", "user.email=a@b"]
        done = subprocess.run(["git", "-C", tmp_path, *own, *words], check=True, capture_output=True, text=True)
        return done.stdout.strip()

    git("init")
    (tmp_path / "train.py").write_text("1")
    git("add", ".")
    git("commit", "-m", "first")
    (tmp_path / "RESULTS.md").write_text("new")
    assert current_commit() == git("rev-parse", "HEAD")
    (tmp_path / "models").mkdir()
    (tmp_path / "models/new.py").write_text("2")
    assert current_commit() == git("rev-parse", "HEAD") + " with changes"


def test_report_is_written_in_words_and_as_a_picture(compared):
    _, out = compared
    report, text = read(out / "report.json"), (out / "report.md").read_text()
    for item in (report["variants"][1], report["control"]):
        assert f"| {item['comparison']['verdict']} |" in text
    assert "nearest again is nearest with seeds 2, 3 (" in text
    assert "equal to the last digit in all 4 numbers" in text
    assert (out / "report.png").read_bytes().startswith(b"\x89PNG")


def test_a_run_is_an_ordinary_run_whatever_runs_beside_it(compared, here, tmp_path):
    words, out = compared
    options = [word for word in map(str, words) if "=" in word]
    here("train", "--cfg", CFG, *options, "model.upsampler=dysample+", "seed=1", f"output_dir={tmp_path}")
    alone, beside = logged(tmp_path / "seg", "val"), logged(out / "dysample+/seed_1", "val")
    timed = {"seconds": 0}
    assert [line | timed for line in alone] == [line | timed for line in beside]


def test_finished_runs_are_not_repeated(copied, monkeypatch, capsys):
    words, out = copied
    before = {path: path.stat().st_mtime_ns for path in out.rglob("log.jsonl")}
    assert len(before) == 7
    compare(monkeypatch, *words, "--seeds", 2, "--check")
    assert "7, of which 7 are finished" in capsys.readouterr().out
    other = out.parent / "other.json"
    compare(monkeypatch, *words, "--seeds", 2, "--metric", "aAcc", "--json", other)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("log.jsonl")} == before
    assert read(other) == read(out / "report.json")
    assert read(other)["variants"][1]["scores"] == [
        final(out / "dysample+" / f"seed_{seed}", "aAcc") for seed in (0, 1)
    ]


def test_finished_runs_without_checkpoints_are_of_their_settings_all_the_same(copied, monkeypatch):
    words, out = copied
    for folder in out.glob("*/*/checkpoints"):
        shutil.rmtree(folder)
    compare(monkeypatch, *words, "--seeds", 2, "--check")
    with pytest.raises(UserError, match=r"nearest, seed 0: optimizer.lr=0.5: the run in .* was made with"):
        compare(monkeypatch, *words, "--seeds", 2, "optimizer.lr=0.5")
    (out / "nearest/seed_0/config.yaml").unlink()
    with pytest.raises(UserError, match=r"seed_0/config.yaml: is missing or damaged; remove"):
        compare(monkeypatch, *words, "--seeds", 2)


def test_a_log_that_holds_anything_is_read_as_far_as_it_is_one(copied, monkeypatch, capsys):
    words, out = copied
    with (out / "nearest/seed_0/log.jsonl").open("ab") as log:
        log.write(b'[]\n{"a": 1}\n\xff\n')
    (out / "nearest/seed_1/log.jsonl").write_bytes(b"\xff\n")
    compare(monkeypatch, *words, "--seeds", 2, "--check")
    assert "7, of which 6 are finished" in capsys.readouterr().out


def test_a_folder_belongs_to_one_comparison_at_a_time(copied, monkeypatch):
    words, out = copied
    code = f"import fcntl; lock = open({str(out / '.lock')!r}, 'w'); fcntl.lockf(lock, fcntl.LOCK_EX); print(); input()"
    owner = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        owner.stdout.readline()
        with pytest.raises(
            UserError, match=r"another comparison is using this folder; stop it or choose another --out"
        ):
            compare(monkeypatch, *words, "--seeds", 2)
    finally:
        owner.communicate(b"\n")
    compare(monkeypatch, *words, "--seeds", 2)


@pytest.mark.parametrize("threads", ['"x"', "0", "true", "1000000000000"])
def test_a_damaged_environment_is_one_line(copied, monkeypatch, threads):
    words, out = copied
    record = (out / "environment.json").read_text().replace('"threads": 1', f'"threads": {threads}')
    (out / "environment.json").write_text(record)
    with pytest.raises(UserError, match=r"environment\.json: is damaged; choose another --out"):
        compare(monkeypatch, *words, "--seeds", 2)


def test_a_loss_that_diverged_is_told_with_advice_that_can_be_followed(tmp_path):
    (tmp_path / "output.txt").write_text(f"error: step 2: the loss is not finite; {DIVERGED}\n")
    run = SimpleNamespace(name="nearest, seed 0", output=tmp_path / "output.txt")
    with pytest.raises(UserError, match=r"seed 0: step 2: the loss is not finite; choose another --out and settings"):
        _check_end(run, 2)


def test_places_are_those_of_each_visible_gpu(monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert [place["CUDA_VISIBLE_DEVICES"] for place in run_places(2, "cuda")] == ["0", "1", "0", "1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,GPU-5")
    assert [place["CUDA_VISIBLE_DEVICES"] for place in run_places(1, "cuda")] == ["3", "GPU-5"]
    assert run_places(2, "cpu") == [{}, {}]


def test_a_place_has_one_run_at_a_time(monkeypatch, tmp_path):
    """Runs end in another order than they start; the next takes the place that is free."""
    at_work: dict[str, str] = {}
    taken: list[tuple[str, str]] = []

    class Process:
        returncode = 0

        def __init__(self, words: list[str], env: dict[str, str], **_: object) -> None:
            self.place, self.polls = env["PLACE"], 3 if words[-1] == "0" else 1
            assert self.place not in at_work
            at_work[self.place] = words[-1]
            taken.append((words[-1], self.place))

        def poll(self) -> int | None:
            self.polls -= 1
            if self.polls > 0:
                return None
            runs[int(at_work.pop(self.place))].finished = True
            return 0

    class Stub(SimpleNamespace):
        __hash__ = object.__hash__

    runs = [
        Stub(name=name, arguments=[name], folder=tmp_path, output=tmp_path / name, finished=False, final_metrics=dict)
        for name in "01234"
    ]
    monkeypatch.setattr("tools.compare.runs.Popen", Process)
    monkeypatch.setattr("tools.compare.runs.POLL_SECONDS", 0)
    monkeypatch.setattr("tools.compare.runs.current_commit", lambda: "abc")
    after: list[str] = []
    run_all(runs, [{"PLACE": "a"}, {"PLACE": "b"}], 1, lambda run: after.append(run.name))
    assert taken[:2] == [("0", "a"), ("1", "b")]
    assert [place for _, place in taken[2:4]] == ["b", "b"]
    assert sorted(after) == ["0", "1", "2", "3", "4"]


def test_report_tells_the_steps_of_variants_that_differ_in_them(compared):
    report = read(compared[1] / "report.json")
    assert "the last evaluation, at step 2. 2 seeds" in markdown(report)
    report["variants"][1]["step"] = 4
    assert "the last evaluation, at step 2 or 4. 2 seeds" in markdown(report)


def test_a_comparison_that_failed_at_its_start_fixes_no_threads(copied, monkeypatch, capsys):
    words, out = copied
    compare(monkeypatch, *words, "--seeds", 2, "--check")
    assert "1 thread each" in capsys.readouterr().out
    with pytest.raises(UserError, match="threads 2: the runs in"):
        compare(monkeypatch, *words, "--seeds", 2, "--threads", 2, "--check")
    for folder in out.glob("*/seed_*"):
        shutil.rmtree(folder)
    compare(monkeypatch, *words, "--seeds", 2, "--threads", 2, "--check")
    assert "2 threads each" in capsys.readouterr().out


def test_more_seeds_use_the_runs_of_the_control(compared, monkeypatch, capsys):
    words, _ = compared
    compare(monkeypatch, *words, "--seeds", 3, "--check")
    assert "10, of which 7 are finished" in capsys.readouterr().out


@pytest.mark.parametrize(("first", "finished"), [(4, 0), (2, 2), (3, 1)])
def test_seeds_beyond_the_control_are_fresh(compared, monkeypatch, capsys, first, finished):
    words, _ = compared  # of which the control has the seeds 2 and 3
    compare(monkeypatch, *words, "--seeds", 2, "--first-seed", first, "--check")
    assert f"7, of which {finished} are finished" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("--threads=2", "threads 2: the runs in"),
        ("optimizer.lr=0.5", r"nearest, seed 0: optimizer.lr=0.5: the run in .* was made with"),
    ],
)
def test_a_folder_with_other_settings_is_refused(compared, monkeypatch, change, expected):
    words, _ = compared
    with pytest.raises(UserError, match=expected):
        compare(monkeypatch, *words, "--seeds", 2, change)


@pytest.mark.slow
def test_an_interrupted_comparison_goes_on_and_ends_bit_identical(compared, monkeypatch, tmp_path):
    words = [*compared[0][:-4], "steps=20", "evaluation.every=10", "--upsamplers", "nearest", "--seeds", 1]
    words += ["--out", tmp_path / "out"]
    monkeypatch.setattr(Forked, "signal_at", 4)
    monkeypatch.setattr("tools.compare.runs.POLL_SECONDS", 0.01)
    with pytest.raises(Interrupted) as stop:
        compare(monkeypatch, *words)
    assert stop.value.signal_number == signal.SIGTERM
    folder = tmp_path / "out/nearest/seed_0"
    assert len(logged(folder, "train")) < 20
    assert (folder / "checkpoints/last.pt").exists()
    compare(monkeypatch, *words)
    report = read(tmp_path / "out/report.json")
    assert "resuming" in (folder / "output.txt").read_text()
    assert report["repeat"]["equal"]  # the run that was not interrupted
    assert (report["control"]["comparison"]["verdict"], report["control"]["sd"]) == ("one seed shows nothing", None)


def test_runs_that_may_end_early_are_refused(monkeypatch):
    words = ["--upsamplers", "nearest", "--seeds", 1, "--check"]
    with pytest.raises(UserError, match=r"variant nearest: evaluation\.patience: .*do not compare; add"):
        compare(monkeypatch, *words, "evaluation.patience=3")


def test_a_failed_run_stops_the_rest_with_its_own_line(monkeypatch, tmp_path):
    words = [*TINY, "data.root=/proc/nowhere", "--upsamplers", "nearest,carafe", "--seeds", 2, "--jobs", 2]
    with pytest.raises(UserError, match=r"^(nearest|carafe), seed 0: .*/proc/nowhere: no such folder; "):
        compare(monkeypatch, *words, "--out", tmp_path / "out")
    assert not (tmp_path / "out/nearest/seed_1").exists()


@pytest.mark.slow
def test_ctrl_c_stops_the_run_which_saves_and_exits_130(scenes, tmp_path):
    words = [*TINY, f"data.root={scenes}/ADEChallengeData2016", "steps=100000", "--upsamplers", "nearest"]
    process = launch.start("tools.compare", "--cfg", CFG, *words, "--seeds", 1, "--out", tmp_path / "out")
    folder = tmp_path / "out/nearest/seed_0"
    deadline = time.monotonic() + 120
    while not (folder / "checkpoints/last.pt").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send(signal.SIGINT)
    done = process.wait()
    assert (done.code, done.err) == (130, "")
    assert load_checkpoint(folder / "checkpoints/last.pt")["step"] == logged(folder, "train")[-1]["step"]


# --- words -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("differences", "lower_is_better", "expected"),
    [
        ([1.0, 1.1, 1.2], False, "better by 1.1 [0.8516, 1.348]"),
        ([1.0, 1.1, 1.2], True, "worse by 1.1 [0.8516, 1.348]"),
        ([-1.0, -1.1, -1.2], False, "worse by 1.1 [0.8516, 1.348]"),
        ([-1.0, -1.1, -1.2], True, "better by 1.1 [0.8516, 1.348]"),
        ([0.0, 0.0, 0.0], False, "no difference shown (the scores are equal)"),
        ([2.0, 2.0, 2.0], False, "so the test has no spread to use"),
        ([1.0], False, "one seed shows nothing"),
        ([1.0, float("nan")], False, "no verdict: the metric has no value in one of the runs"),
        # sd 2, n = 3: 5.6535 standard errors of 2 / sqrt(3), from tables of the noncentral t.
        ([-2.0, 0.0, 2.0], False, "(3 seeds show a true difference of 6.528 in 80 % of repetitions)"),
    ],
)
def test_verdicts(differences, lower_is_better, expected):
    found = mean(differences)
    assert verdict(found, found.p, lower_is_better, len(differences)).endswith(expected)


def test_verdict_goes_by_the_corrected_p_value_and_says_what_that_test_can_show():
    found = mean([1.0, 1.1, 1.2])
    said = verdict(found, 0.06, False, 3, family=5)
    assert said.startswith("no difference shown")
    assert f"a true difference of {found.smallest_shown(5):.4g} in" in said


@pytest.mark.parametrize(("value", "equal"), [(40.0, True), (40.00000000000001, False)])
def test_repeat_is_compared_to_the_last_digit(value, equal):
    def run(numbers):
        return SimpleNamespace(evaluations=lambda: numbers, experiment=SimpleNamespace(seed=0))

    nan = float("nan")
    found = compare_repeat(run({1: {"mIoU": 40.0, "AP": nan}}), run({1: {"mIoU": value, "AP": nan}}))
    assert (found["equal"], found["numbers"]) == (equal, 2)
    assert found["largest_difference"] == abs(value - 40)
    assert describe_repeat(found).startswith("equal to the last digit in all 2" if equal else "NOT equal, by up to 7.1")
    other = compare_repeat(run({1: {"mIoU": nan}}), run({1: {"mIoU": value}}))
    assert (other["equal"], describe_repeat(other)) == (False, "NOT equal: a number has a value in one of the two only")


# --- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--upsamplers", "nearest,dysampel"], "--upsamplers dysampel: no such upsampler; did you mean dysample?"),
        (["--upsamplers", "nearest,nearest"], "--upsamplers nearest: is named twice"),
        (["--upsamplers", "nearest,"], "no such upsampler"),
        (["--upsamplers", "nearest", "--seeds", "0"], "--seeds 0: is out of range; give 1 to 10000"),
        (["--upsamplers", "nearest", "--seeds", "x"], "invalid int value"),
        (["--upsamplers", "nearest", "--first-seed", "-1"], "--first-seed -1: is out of range; give 0 to 10000"),
        (["--upsamplers", "nearest", "--jobs", "0"], "--jobs 0: is out of range"),
        (
            ["--upsamplers", "nearest", "--metric", "miou"],
            "--metric miou: is not a metric of task semantic; did you mean",
        ),
        (["--upsamplers", "nearest", "--baseline", "neerest"], "did you mean nearest?"),
        (["--upsamplers", "nearest", "seed=4"], "seed in seed=4: is set for every run"),
        (["--upsamplers", "nearest", "stpes=4"], "stpes: unknown key; did you mean steps?"),
        (["--upsamplers", "nearest", "--variants", "x.yaml"], "not allowed with argument"),
        ([], "one of the arguments --upsamplers --variants is required"),
        (["--variants", "/proc/nowhere.yaml"], "/proc/nowhere.yaml: no such file"),
        (["--upsamplers", "nearest", "--out", "/dev/null", "data.root=/proc/nowhere"], "/dev/null: cannot be written"),
    ],
)
def test_wrong_arguments_end_in_one_line_before_any_run(monkeypatch, capsys, words, expected):
    seeds = [] if "--seeds" in words else ["--seeds", "2"]
    monkeypatch.setattr("tools.compare.__main__.run_all", None)
    monkeypatch.setattr(sys, "argv", ["tools.compare", "--cfg", CFG, *words, *seeds])
    with pytest.raises(SystemExit) as stop:
        run_command(command.main)
    lines = capsys.readouterr().err.splitlines()
    assert stop.value.code == 2
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    assert expected in lines[0]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("a: [steps=2]\na: [steps=3]", "key a appears twice"),
        ("a: steps=2", "a: is not a list of KEY=VALUE"),
        ("1: [steps=2]", "1: is not a list"),
        ("a/b: [steps=2]", "cannot name a folder"),
        ("{}", "names no variant"),
        ("a: [steps=2]\nb: [model.upsampler.gruops=2]", "variant b: .*gruops"),
        ("a: [model.upsampler={name: dysample}]", "variants.yaml line 1: expected"),
        ("a: [metrics.0.boundary=false, evaluation.best=bIoU]", "evaluation.best: no metric bIoU"),
        ("a: []\nb: [metrics.0.boundary=false]", "variant b: metric bIoU: is not a metric"),
        ("a: []\nb: ['model.upsampler={name: dysample, groups: 7}']", "variant b: .*groups"),
    ],
)
def test_wrong_variants_end_in_one_line_before_any_run(monkeypatch, tmp_path, content, expected):
    path = tmp_path / "variants.yaml"
    path.write_text(content)
    monkeypatch.setattr("tools.compare.__main__.run_all", None)
    words = ["--variants", path, "--seeds", 2, "--out", tmp_path / "out", "--check"]
    with pytest.raises(UserError, match=expected):
        compare(monkeypatch, *words, *(["--metric", "bIoU"] if "b: [metrics" in content else []))


def test_variants_may_differ_by_any_setting(monkeypatch, tmp_path, capsys):
    path = tmp_path / "variants.yaml"
    path.write_text(json.dumps({"plain": [], "groups-1": ["model.upsampler.groups=1", "optimizer.lr=0.01"]}))
    compare(monkeypatch, "--variants", path, "--seeds", 3, "--baseline", "groups-1", "--check")
    plan = capsys.readouterr().out
    assert "10, of which 0 are finished" in plan
    assert "variant     plain: " in plan
    assert "variant     groups-1, the baseline: " in plan


# --- from a trained model --------------------------------------------------------------------------------------------


@pytest.fixture
def from_bilinear(scenes, tmp_path) -> list[object]:
    """The words of a comparison that starts from a model with bilinear interpolation."""
    words = [*TINY, *SHORT, f"data.root={scenes}/ADEChallengeData2016", "--upsamplers", "bilinear,dysample"]
    settings = [word for word in words if "=" in word and word.startswith(("model", "data"))]
    model = load_experiment(CFG, [*settings, "model.upsampler=bilinear"]).build_model()
    torch.save({"format": "denseup-weights", "model": model.state_dict()}, tmp_path / "bilinear.pt")
    return [*words, "--out", tmp_path / "out", "--seeds", 1, f"model.weights={tmp_path}/bilinear.pt"]


def test_the_plan_says_what_each_variant_starts_from(from_bilinear, monkeypatch, capsys):
    compare(monkeypatch, *from_bilinear, "--check")
    printed = capsys.readouterr().out
    assert "pretrained weights: whole model from" in printed
    assert "pretrained weights: whole model without head.upsamplers (missing there) from" in printed


def test_weights_that_do_not_fit_are_told_before_the_first_run(from_bilinear, monkeypatch, tmp_path):
    with pytest.raises(UserError, match=r"variant bilinear: model.weights .*does not fit the model"):
        compare(monkeypatch, *from_bilinear, "model.channels=24", "--threads", 1)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_all_variants_learn_on_from_a_trained_model(from_bilinear, monkeypatch, tmp_path):
    compare(monkeypatch, *from_bilinear)
    started = "pretrained weights: whole model"
    for variant, without in (("bilinear", ""), ("dysample", " without head.upsamplers (missing there)")):
        [note] = [
            line["text"] for line in logged(tmp_path / "out" / variant / "seed_0", "note") if started in line["text"]
        ]
        assert note.startswith(f"{started}{without} from {tmp_path}/bilinear.pt")
