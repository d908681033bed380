"""tools.minipaper: its experiments, its page from made-up reports, going on where it stopped."""

import json
import os
import re
import shutil
import signal
import sys
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pytest
import yaml

import tools.minipaper.__main__ as command
from config import read_config, validate
from errors import Interrupted, UserError, run_command
from models.cost import shapes_only
from tests.conftest import ROOT, TINY, read
from tests.tools.test_compare import SHORT, call_here
from tools.compare import __main__ as compare
from tools.compare.statistics import paired_difference
from tools.minipaper import experiments
from tools.minipaper.experiments import MiniPaper, directions, read_result, run_compare
from tools.minipaper.report import About, Section, compare_metric, compare_sections, page, read_paper

# --- the experiments -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def planned():
    """All experiments, and what tools.compare makes of them."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.chdir(ROOT)
        paper = validate(MiniPaper, read_config(command.EXPERIMENTS), command.EXPERIMENTS)
        return paper, {name: paper.comparison(name) for name in paper.experiments}


def test_every_variant_builds(planned):
    _, comparisons = planned
    built = {run.folder: run.experiment for item in comparisons.values() for run, *_ in item.paired.values()}
    # Five tasks, more seeds of two variants and of bilinear in stages, the ablations' that no earlier table has.
    assert len(built) == 5 * 6 + 2 + 1 + 2 + 3 + 1 + 7
    with shapes_only():
        assert all(experiment.build_model() for experiment in built.values())


def test_the_schedule_ends_with_the_run_which_is_scored_once(planned):
    for item in planned[1].values():
        experiment = item.repeat.experiment
        steps = experiment.steps
        assert experiment.schedule.factor(steps, steps) < 1e-6
        assert [
            step for step in range(steps + 1) if step and (step % experiment.evaluation.every == 0 or step == steps)
        ] == [steps]


def test_metrics_are_those_of_the_tasks_and_the_papers_rows_are_variants(planned):
    paper, comparisons = planned
    printed = read_paper()["tables"]
    for name, item in paper.experiments.items():
        assert directions(comparisons[name], item.metrics).keys() == set(item.metrics)
        for metric, values in printed[item.paper]["values"].items():
            assert metric in item.metrics
            if name == "stages":  # no table has its baseline
                continue
            assert comparisons[name].baseline in values
            if name != "confirm":  # one question of a table that `seg` has whole
                assert values.keys() <= comparisons[name].variants.keys()


def test_variants_of_one_name_are_one_run(planned):
    words: dict[Path, list[str]] = {}
    for item in planned[1].values():
        for run in item.runs:
            assert words.setdefault(run.folder, run.arguments) == run.arguments
    assert len(words) == 36 + 37 + 25 + 4 * 22 + 10 + 13 + 3 + 21


# --- the page --------------------------------------------------------------------------------------------------------


def made_up(scores: dict[str, list[float | None]], metrics: tuple[str, ...], control: list[float]) -> dict:
    """A report as tools.compare writes it, with the same scores for every metric."""

    def described(name, values):
        return {"name": name, "overrides": [], "metrics": dict.fromkeys(metrics, values)}

    first, *_ = scores
    seeds = list(range(len(control)))
    return {
        "seeds": seeds,
        "step": 7,
        "baseline": first,
        "metric": metrics[0],
        "variants": [described(name, values) for name, values in scores.items()],
        "control": {**described(f"{first} again", control), "seeds": [seed + len(seeds) for seed in seeds]},
        "repeat": {"seed": 0, "equal": True, "numbers": 4, "largest_difference": 0},
        "command": "the command",
        "device": "cpu",
        "cpu": "a CPU",
        "jobs": 2,
        "threads": 1,
        "python": "3.11",
        "torch": "2.14",
        "commit": "abc",
        "date": "2026-01-02",
    }


SCORES = {
    "bilinear": [40.0, 41.0, 42.0],
    "carafe": [41.0, 42.1, 43.2],
    "dysample": [39.0, 39.9, 40.8],
    "dysample+": [42.0, 39.0, 43.0],
    "dysample-s+": [40.0, None, 42.0],
}
RUN = Section(
    *("seg", "Segmentation", "", "seg.yaml", ("mIoU", "bIoU"), "Table 4"),
    lower_is_better={"mIoU": False, "bIoU": True},
    report=made_up(SCORES, ("mIoU", "bIoU"), [40.5, 41.0, 41.5]),
)
NOT_RUN = replace(RUN, name="depth", title="Depth", metrics=("delta1",), paper="Table 9", report=None)


def written(sections: list[Section]) -> str:
    about = About("Results", "", "python -m tools.minipaper", "results", "RESULTS.md")
    return page(about, sections, compare_sections(sections), read_paper())


def rows_of(text: str, name: str) -> list[list[str]]:
    return [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith(f"| {name} |")]


def test_page_says_what_was_found_and_what_was_not_run():
    text = written([RUN, NOT_RUN])
    (up, down), (worse, better) = rows_of(text, "carafe"), rows_of(text, "dysample")
    assert up[1:3] == ["42.1 ± 1.1", "+1.1 [+0.8516, +1.348]"]
    assert [row[5] for row in (up, down, worse, better)] == ["better", "worse", "worse", "better"]
    shown = paired_difference(SCORES["dysample+"], SCORES["bilinear"]).smallest_shown(4)
    assert rows_of(text, "dysample+")[0][5:7] == ["no difference shown", f"{shown:.3g}"]
    assert rows_of(text, "dysample-s+")[0][3:7] == ["-", "-", "no verdict", "-"]
    assert rows_of(text, "bilinear again")[0][5] == "no difference shown"
    assert "**1 of 2 experiments are finished.** They make 8 comparisons" in text
    assert '2 "better", 2 "no difference shown", 2 "worse", 2 "no verdict"' in text
    assert rows_of(text, "Segmentation") == [["Segmentation", metric, *"1111"] for metric in ("mIoU", "bIoU")]
    assert "up to 10 % of cases" in text
    assert "equal to the last digit in all 4 numbers" in text
    assert "commit `abc`; date `2026-01-02`" in text
    depth = text.partition("## Depth")[2]
    assert depth.strip() == "Not run yet: `python -m tools.minipaper --only depth`"


def test_papers_numbers_stand_in_their_own_column_as_printed():
    printed = read_paper()["tables"]["Table 4"]["values"]
    text = written([RUN])
    assert "| the paper's, Table 4 |" in text
    for name in SCORES:
        for metric, row in zip(("mIoU", "bIoU"), rows_of(text, name), strict=True):
            value, _, gain = row[7].partition(" ")
            assert value == printed[metric].get(name, "-")
            if gain:
                exact = Decimal(value) - Decimal(printed[metric]["bilinear"])
                assert abs(Decimal(gain.strip("()")) - exact) <= Decimal("0.05")
    assert rows_of(text, "carafe")[0][7] == "42.82 (+1.14)"
    assert rows_of(text, "dysample")[0][7] == "43.2 (+1.5)"  # from 41.68: no more digits than both have


def test_page_without_any_report_has_no_number_of_a_run():
    text = written([replace(RUN, report=None), NOT_RUN])
    assert "**None of the 2 experiments has been run yet.**" in text
    assert text.count("Not run yet") == 2
    assert "|" not in text


def test_a_section_without_a_table_of_the_paper_has_no_column_of_it():
    text = written([replace(RUN, paper=None)])
    assert "paper" not in text.replace("tools.minipaper", "")
    assert rows_of(text, "dysample")[0] == rows_of(written([RUN]), "dysample")[0][:-1]


def test_a_table_that_the_paper_lacks_is_one_line():
    with pytest.raises(UserError, match=r"experiment seg: paper Table 44: .*; did you mean Table 4\?"):
        written([replace(RUN, paper="Table 44")])


def test_the_readme_has_the_numbers_of_the_fresh_seeds():
    report = read(ROOT / "results/confirm.json")
    wanted: list[list[str]] = [[], [], []]
    for metric in ("mIoU", "bIoU"):
        for cells, row in zip(wanted, compare_metric(report, metric, False), strict=True):
            found = row.outcome and row.outcome.difference
            interval = f"{found.mean:+.2f} [{found.low:+.2f}, {found.high:+.2f}]" if found else ""
            cells += [f"{row.score.mean:.2f}", interval]
    table = (ROOT / "README.md").read_text().partition("| SegFormer, 12 seeds")[2].split("\n\n")[0].replace("*", "")
    printed = [[cell.strip() for cell in line.split("|")[2:-1]] for line in table.splitlines()[2:]]
    assert printed == wanted


def test_the_written_page_is_that_of_the_stored_results(monkeypatch, tmp_path, here):
    shutil.copytree(ROOT / "results", tmp_path / "results")
    monkeypatch.setattr(sys, "argv", ["tools.minipaper", "--report", "--root", str(tmp_path)])
    command.main()
    text = (tmp_path / "RESULTS.md").read_text()
    assert text == (ROOT / "RESULTS.md").read_text()
    for picture in re.findall(r"!\[.*]\((.*)\)", text):
        assert (ROOT / picture).read_bytes().startswith(b"\x89PNG")


def test_the_questions_have_fresh_seeds_and_a_page_that_is_theirs(monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    path = "tools/minipaper/questions.yaml"
    paper = validate(MiniPaper, read_config(path), path)
    assert all(item.first_seed >= 200 for item in paper.experiments.values())  # no run before had these
    if paper.results.exists():
        shutil.copytree(paper.results, tmp_path / paper.results)
    monkeypatch.setattr(sys, "argv", ["tools.minipaper", "--experiments", path, "--report", "--root", str(tmp_path)])
    command.main()
    assert (tmp_path / "docs/questions.md").read_text() == (ROOT / "docs/questions.md").read_text()


# --- whole experiments -----------------------------------------------------------------------------------------------


def minipaper(monkeypatch: pytest.MonkeyPatch, *words: object) -> None:
    """The command, with tools.compare in this process and its runs forked from it."""

    def in_process(words):
        with monkeypatch.context() as inner:
            inner.setattr(sys, "argv", ["tools.compare", *words])
            compare.main()

    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(command, "run_compare", in_process)
    call_here(monkeypatch, command.main, "tools.minipaper", *words)


def small(scenes: Path, folder: Path) -> dict:
    """Two experiments whose second only asks for another metric of the same runs."""
    first = {"title": "First", "cfg": "configs/minipaper/seg.yaml", "variants": "tools/minipaper/variants/start.yaml"}
    first |= {"seeds": 1, "metrics": ["mIoU", "bIoU"], "paper": "Table 1"}
    return {
        "out": str(folder / "runs"),
        "overrides": [*TINY, *SHORT, f"data.root={scenes}/ADEChallengeData2016"],
        "experiments": {"first": first, "second": first | {"title": "Second", "metrics": ["aAcc"]}},
    }


@pytest.mark.slow
def test_experiments_are_run_kept_shared_and_left_alone(scenes, tmp_path, monkeypatch, capsys):
    path = tmp_path / "experiments.yaml"
    content = small(scenes, tmp_path)
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    words = ["--experiments", path, "--root", tmp_path, "--jobs", 2]
    minipaper(monkeypatch, *words, "--only", "first")
    assert {item.name for item in (tmp_path / "results").iterdir()} == {"first.json", "first.png", "overview.png"}
    text = (tmp_path / "RESULTS.md").read_text()
    assert "**1 of 2 experiments" in text
    command = f"python -m tools.minipaper --experiments {path}"
    assert f"Not run yet: `{command} --only second`" in text
    report = read(tmp_path / "results/first.json")
    for metric in ("mIoU", "bIoU"):
        assert [row.score.mean for row in compare_metric(report, metric, False)[:-1]] == [
            variant["metrics"][metric][0] for variant in report["variants"]
        ]

    minipaper(monkeypatch, *words, "--check")
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines[-3:-1]] == [["first", "4", "4", "0"], ["second", "0", "0", "0"]]

    logs = {log: log.stat().st_mtime_ns for log in tmp_path.rglob("log.jsonl")}
    kept = (tmp_path / "results/first.json").stat().st_mtime_ns
    minipaper(monkeypatch, *words)
    assert {log: log.stat().st_mtime_ns for log in tmp_path.rglob("log.jsonl")} == logs
    assert (tmp_path / "results/first.json").stat().st_mtime_ns == kept
    assert "**2 of 2 experiments" in (tmp_path / "RESULTS.md").read_text()

    shutil.rmtree(tmp_path / "runs")
    minipaper(monkeypatch, *words, "--check")
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines[-3:-1]] == [["first", "4", "4", "0"], ["second", "0", "0", "0"]]

    content["experiments"]["first"]["seeds"] = 2
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    minipaper(monkeypatch, *words, "--report")
    assert f"Not run yet: `{command} --only first`" in (tmp_path / "RESULTS.md").read_text()


@pytest.mark.parametrize("content", ["", "{", "[]", "{}"])
def test_a_damaged_result_is_one_line(planned, tmp_path, content):
    path = tmp_path / "seg.json"
    path.write_text(content)
    with pytest.raises(UserError, match=r"seg\.json: is damaged; remove it"):
        read_result(path, planned[1]["seg"], ["mIoU"])


def test_a_result_of_other_settings_or_without_a_metric_is_not_taken(planned, tmp_path):
    comparison, path = planned[1]["seg"], tmp_path / "seg.json"
    report = read(ROOT / "results/seg.json")

    def taken(report: dict, metric: str = "mIoU") -> bool:
        path.write_text(json.dumps(report))
        return read_result(path, comparison, [metric]) is not None

    assert taken(report)
    assert taken(report | {"config": report["config"] | {"output_dir": "elsewhere"}})
    assert not taken(report | {"config": report["config"] | {"batch_size": 2}})
    assert not taken(report | {"seeds": [0, 1]})
    assert not taken(report | {"seeds": [seed + 10 for seed in report["seeds"]]})
    assert not taken(report, "bIou")
    del report["cpu"]
    assert not taken(report)


class Finished:
    """Stands in for Popen: a process with an exit code; without one it ends at the signal that it passes on.

    stubborn: only at the second signal, which comes while it is waited for.
    """

    number, stubborn = signal.SIGTERM, False

    def __init__(self, returncode: int | None) -> None:
        self.returncode, self.sent = returncode, []

    def __call__(self, words: list[str], process_group: int) -> "Finished":
        return self

    def poll(self) -> int | None:
        if self.returncode is None:
            os.kill(os.getpid(), self.number)
        return self.returncode

    def send_signal(self, number: int) -> None:
        self.sent.append(number)

    def wait(self) -> None:
        if self.stubborn and len(self.sent) == 1:
            os.kill(os.getpid(), signal.SIGINT)
        self.returncode = 143


def test_a_stop_signal_is_passed_on(monkeypatch):
    process = Finished(None)
    monkeypatch.setattr(experiments, "Popen", process)
    with pytest.raises(Interrupted):
        run_compare([])
    assert process.sent == [signal.SIGTERM]


def test_a_second_ctrl_c_is_passed_on_too(monkeypatch):
    process = Finished(None)
    process.number, process.stubborn = signal.SIGINT, True
    monkeypatch.setattr(experiments, "Popen", process)
    with pytest.raises(Interrupted):
        run_compare([])
    assert process.sent == [signal.SIGINT, signal.SIGINT]


@pytest.mark.parametrize(("code", "expected"), [(2, SystemExit), (-9, UserError)])
def test_a_comparison_that_fails_ends_it(monkeypatch, code, expected):
    monkeypatch.setattr(experiments, "Popen", Finished(code))
    with pytest.raises(expected, match=r"2|SIGKILL"):
        run_compare([])


# --- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--only", "segg"], "--only segg: no such experiment; did you mean seg?"),
        (["--jobs", "0"], "--jobs 0: is less than 1"),
        (["--experiments", "/proc/nowhere.yaml"], "/proc/nowhere.yaml: no such file"),
        (["--experiments", "EMPTY"], r"experiments: .*at least 1 item"),
        (["--experiments", "METRIC"], r"configs/minipaper/seg.yaml: metric bIou: .*; did you mean bIoU\?"),
    ],
)
def test_wrong_arguments_end_in_one_line(monkeypatch, capsys, tmp_path, words, expected):
    content = small(tmp_path, tmp_path)
    content["experiments"]["first"]["metrics"] = ["mIoU", "bIou"]
    (tmp_path / "METRIC").write_text(yaml.safe_dump(content, sort_keys=False))
    (tmp_path / "EMPTY").write_text("out: runs\nexperiments: {}\n")
    words = [str(tmp_path / word) if word.isupper() else word for word in words]
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(command, "run_compare", None)
    monkeypatch.setattr(sys, "argv", ["tools.minipaper", *words, "--root", str(tmp_path)])
    with pytest.raises(SystemExit) as stop:
        run_command(command.main)
    (line,) = capsys.readouterr().err.splitlines()
    assert stop.value.code == 2
    assert re.search(expected if "\\" in expected or ".*" in expected else re.escape(expected), line)
