"""tools.board: a tiny board from end to end, its verdicts and page from made-up rows, the boards that are shipped."""

import json
import re
import shutil
from pathlib import Path
from xml.etree import ElementTree

import pytest

import tools.board.__main__ as command
from errors import UserError, run_command
from tests.conftest import ROOT, TINY, logged, read
from tests.tools.test_compare import SHORT, call_here
from tools.board.chart import draw
from tools.board.costs import read_costs
from tools.board.definition import Column, read_board
from tools.board.judge import family, judge_board
from tools.compare.runs import DivergedError
from tools.compare.statistics import holm, paired_difference
from upsamplers import NAMES

BOARDS = sorted((ROOT / "configs/board").glob("table*.yaml"))


def board(monkeypatch: pytest.MonkeyPatch, *words: object) -> None:
    monkeypatch.chdir(ROOT)
    call_here(monkeypatch, command.main, "tools.board", *words)


# --- a tiny board ----------------------------------------------------------------------------------------------------


def tiny_board(scenes: Path, folder: Path) -> dict:
    """Two upsamplers in one host, with two seeds."""
    host = {"title": "Tiny", "cfg": "configs/board/small/seg.yaml", "upsamplers": ["bilinear", "dysample"]}
    host |= {"baseline": "bilinear", "seeds": 2, "metrics": ["mIoU", "bIoU"], "pilot": "results/seg.json"}
    overrides = [*TINY, *SHORT, f"data.root={scenes}/ADEChallengeData2016"]
    places = {"page": "BOARD.md", "results": "results/board", "out": str(folder / "runs")}
    return {"title": "A board", **places, "overrides": overrides, "hosts": {"seg": host}}


def words_of(content: dict, folder: Path) -> list[object]:
    path = folder / "board.yaml"
    path.write_text(json.dumps(content))
    return ["--board", path, "--root", folder, "--jobs", 2]


@pytest.fixture(scope="module")
def finished(scenes, tmp_path_factory):
    """The folder of a finished board, of which one row was done first."""
    folder = tmp_path_factory.mktemp("board")
    words = words_of(tiny_board(scenes, folder), folder)
    with pytest.MonkeyPatch.context() as monkeypatch:
        board(monkeypatch, *words, "--power")
        board(monkeypatch, *words, "--rows", "dysample")
        first = (folder / "BOARD.md").read_text()
        board(monkeypatch, *words)
    return folder, first


@pytest.fixture
def copied(finished, scenes, tmp_path):
    """Words and folder of a copy of the finished board that a test may change; its runs are those of the first."""
    shutil.copytree(finished[0] / "results", tmp_path / "results")
    shutil.copytree(finished[0] / "runs", tmp_path / "runs")
    return words_of(tiny_board(scenes, tmp_path), tmp_path), tmp_path


@pytest.mark.slow
def test_rows_hold_the_last_scores_of_their_seeds_and_where_they_are_from(finished):
    kept = read(finished[0] / "results/board/seg.json")
    assert list(kept["rows"]) == ["bilinear", "bilinear again", "dysample"]
    for name, seeds in {"bilinear": [0, 1], "dysample": [0, 1], "bilinear again": [2, 3]}.items():
        row, folder = kept["rows"][name], finished[0] / "runs/seg" / name.split()[0]
        assert row["seeds"] == seeds
        for metric in ("mIoU", "bIoU"):
            last = [logged(folder / f"seed_{seed}", "val")[-1][metric] for seed in seeds]
            assert row["scores"][metric] == last
        assert row["command"].endswith(f"--only seg --rows '{name}'")
        assert row["commit"]
        assert len(list(Path("/").glob(row["logs"].lstrip("/")))) >= 2
    assert kept["rows"]["bilinear again"]["repeat"]["equal"]


@pytest.mark.slow
def test_an_interrupted_board_shows_what_is_finished_and_names_what_is_missing(finished):
    folder, first = finished
    assert "**1 of 3 rows are finished.**" in first
    assert "Missing: bilinear, bilinear again." in first
    last = (folder / "BOARD.md").read_text()
    assert "**3 of 3 rows are finished.**" in last
    assert "Missing" not in last
    assert "equal to the last digit" in last


@pytest.mark.slow
def test_finished_rows_are_not_run_again_even_without_their_runs(copied, monkeypatch):
    words, folder = copied
    shutil.rmtree(folder / "runs")
    before = (folder / "results/board/seg.json").read_text()
    board(monkeypatch, *words)
    assert (folder / "results/board/seg.json").read_text() == before
    assert not list(folder.glob("runs/**/log.jsonl"))


@pytest.mark.slow
def test_a_row_that_is_done_again_has_equal_digits(copied, monkeypatch, capsys):
    words, folder = copied
    board(monkeypatch, *words, "--again", "--rows", "dysample")
    assert capsys.readouterr().out.count("4 of 4 numbers equal to the last digit") == 2
    kept = read(folder / "results/board/seg.json")
    kept["rows"]["dysample"]["scores"]["mIoU"][1] += 1e-9
    (folder / "results/board/seg.json").write_text(json.dumps(kept))
    with pytest.raises(UserError, match=r"--again: some numbers differ"):
        board(monkeypatch, *words, "--again", "--rows", "dysample")
    assert "seed 1: 3 of 4 numbers" in capsys.readouterr().out


@pytest.mark.slow
def test_a_run_that_diverges_is_a_row_of_its_own_and_ends_no_other(copied, monkeypatch):
    words, folder = copied
    kept = read(folder / "results/board/seg.json")
    del kept["rows"]["dysample"]
    (folder / "results/board/seg.json").write_text(json.dumps(kept))
    shutil.rmtree(folder / "runs/seg/dysample")

    def diverge(runs, *_):
        raise DivergedError(runs[-1], "the loss is not finite")

    monkeypatch.setattr("tools.board.rows.run_all", diverge)
    board(monkeypatch, *words)
    rows = read(folder / "results/board/seg.json")["rows"]
    assert list(rows) == ["bilinear", "bilinear again", "dysample"]
    assert (rows["dysample"]["scores"], rows["bilinear"]) == ({}, kept["rows"]["bilinear"])
    assert "dysample, seed 1: the loss is not finite" in (folder / "BOARD.md").read_text()


def error_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, *words: object) -> str:
    """The one line with which the command refuses."""
    monkeypatch.setattr("tools.board.rows.run_all", None)
    with pytest.raises(SystemExit) as stop:
        run_command(lambda: board(monkeypatch, *words))
    (line,) = capsys.readouterr().err.splitlines()
    assert stop.value.code == 2
    return line


@pytest.mark.parametrize(
    ("change", "words", "expected"),
    [
        ({}, ["--only", "segg"], "--only segg: is not on this board; did you mean seg?"),
        ({}, ["--jobs", "0"], "--jobs 0: is less than 1"),
        ({}, ["--again"], "plan.json: says what the board can show, and is not there; run python -m tools.board"),
        ({"metrics": ["mIou"]}, ["--report"], "configs/board/small/seg.yaml: metric mIou: "),
        ({"pilot": "results/det.json"}, ["--power"], "results/det.json: is no report of tools.compare with mIoU"),
    ],
)
def test_what_is_wrong_ends_in_one_line(scenes, tmp_path, monkeypatch, capsys, change, words, expected):
    content = tiny_board(scenes, tmp_path)
    content["hosts"]["seg"] |= change
    assert expected in error_line(monkeypatch, capsys, *words_of(content, tmp_path), *words)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "words", "expected"),
    [
        ({}, ["--rows", "dysampl"], "--rows dysampl: is not on this board; did you mean dysample?"),
        ({"seeds": 3}, [], "plan.json: seg.seeds: is [0, 1], the board's is [0, 1, 2]; run python -m tools.board"),
        ({"overrides": ["batch_size=2"]}, [], "seg.json: batch_size=2: its rows were made with 4; move the file away"),
    ],
)
def test_other_settings_than_those_of_kept_rows_are_refused(
    copied, scenes, monkeypatch, capsys, change, words, expected
):
    content = tiny_board(scenes, copied[1])
    content["hosts"]["seg"] |= change
    assert expected in error_line(monkeypatch, capsys, *words_of(content, copied[1]), *words)


# --- verdicts --------------------------------------------------------------------------------------------------------


def row(scores: list[float | None], **others: object) -> dict:
    """A row as it is kept, with the same scores for both metrics; None: it diverged."""
    values = {} if scores is None else {"mIoU": scores, "bIoU": scores}
    about = {"params": 10, "macs": 20, "seeds": [0, 1, 2], "commit": "abc", "cpu": "a CPU", "date": "2026-01-02"}
    return {**about, "command": "the command", "logs": "the logs", "scores": values, **others}


@pytest.fixture(scope="module")
def columns(scenes, tmp_path_factory):
    """Two hosts of four upsamplers; their runs are never started."""
    folder = tmp_path_factory.mktemp("columns")
    content = tiny_board(scenes, folder)
    host = content["hosts"]["seg"] | {"seeds": 3, "upsamplers": ["bilinear", "dysample", "carafe", "fade"]}
    content["hosts"] = {"seg": host, "other": host | {"metrics": ["bIoU", "mIoU"]}}
    path = folder / "board.yaml"
    path.write_text(json.dumps(content))
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.chdir(ROOT)
        found = read_board(path)
        return [Column(found, name, folder, "the command") for name in found.hosts]


BASE = [40.0, 41.0, 42.0]
BETTER, NEAR = [41.0, 42.001, 43.002], [40.1, 40.9, 42.3]


def test_the_correction_counts_all_hosts_and_rows_that_are_missing(columns):
    assert family(columns) == 6
    kept = [{"bilinear": row(BASE), "dysample": row(BETTER)}, {"bilinear": row(BASE), "carafe": row(NEAR)}]
    judged = judge_board(columns, kept)
    better, near = judged[0].rows[1], judged[1].rows[2]
    p_values = [paired_difference(scores, BASE).p for scores in (BETTER, NEAR)]
    assert [better.outcome.p, near.outcome.p] == holm([*p_values, 1, 1, 1, 1])[:2]
    assert better.outcome.p == pytest.approx(6 * p_values[0])
    assert better.outcome.verdict.startswith("better by 1.00")
    assert judged[0].missing == ["carafe", "fade", "bilinear again"]


def test_rows_that_are_added_take_no_verdict_away(columns):
    kept = [{"bilinear": row(BASE), "dysample": row(BETTER)}, {"bilinear": row(BASE)}]
    few = judge_board(columns, kept)[0].rows[1].outcome.p
    kept[1] |= {"carafe": row(NEAR), "fade": row([41.0, 42.0005, 43.001]), "dysample": row(None, diverged="at step 3")}
    assert judge_board(columns, kept)[0].rows[1].outcome.p <= few


def test_without_the_baseline_nothing_is_judged(columns):
    (first, _) = judge_board(columns, [{"dysample": row(BETTER)}, {}])
    assert first.rows[1].outcome is None
    assert first.rows[1].scores["mIoU"].mean == pytest.approx(42.001)


def test_a_chart_is_drawn_of_rows_with_an_interval_and_a_latency(columns):
    kept = [
        {"bilinear": row(BASE), "dysample": row(BETTER), "fade": row(NEAR), "bilinear again": row([40.5, 41, 42])},
        {"bilinear": row(BASE)},
    ]
    first, second = judge_board(columns, kept)
    (measured,) = read_costs([ROOT / "benchmarks/results/upsamplers_amd_epyc_2026-11-23.json"])
    root = ElementTree.fromstring(draw(first, measured))
    space = "{http://www.w3.org/2000/svg}"
    points = {
        point.find(f"{space}title").text.partition(":")[0]: point.find(f"{space}circle")
        for point in root.iter(f"{space}g")
    }
    assert points.keys() == {"dysample", "fade"}
    costs = {name: measured.costs[name]["forward"] for name in points}
    assert (float(points["dysample"].get("cx")) < float(points["fade"].get("cx"))) == (
        costs["dysample"] < costs["fade"]
    )
    assert float(points["dysample"].get("cy")) < float(points["fade"].get("cy"))  # up is better
    assert "prefers-color-scheme: dark" in root.find(f"{space}style").text
    assert draw(second, measured) is None
    assert draw(first, None) is None


# --- what is shipped -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", BOARDS, ids=lambda path: path.stem)
def test_every_board_loads_with_metrics_of_its_tasks(monkeypatch, tmp_path, path):
    monkeypatch.chdir(ROOT)
    found = read_board(path)
    for name, host in found.hosts.items():
        short = found.model_copy(update={"hosts": {name: host.model_copy(update={"seeds": 1})}})
        column = Column(short, name, tmp_path, "the command")
        assert set(column.lower_is_better) == set(host.metrics)
        assert (
            column.comparison.repeat.experiment.schedule.factor(
                column.comparison.repeat.experiment.steps, column.comparison.repeat.experiment.steps
            )
            < 0.011
        )
    assert found.page.parent == found.results


def test_the_small_board_has_every_upsampler_in_five_hosts_and_scores_once(monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    found = read_board(command.BOARD)
    assert list(found.hosts) == ["seg", "depth", "det", "inst", "pan"]
    for name, host in found.hosts.items():
        assert host.upsamplers == NAMES
        few = found.model_copy(update={"hosts": {name: host.model_copy(update={"upsamplers": NAMES[:2]})}})
        experiment = Column(few, name, tmp_path, "the command").comparison.repeat.experiment
        assert experiment.evaluation.every > experiment.steps


def test_the_written_plan_and_page_are_those_of_the_list_the_pilots_and_the_kept_rows(monkeypatch, tmp_path):
    stored, page = read(ROOT / "results/board/plan.json"), (ROOT / "BOARD.md").read_text()
    shutil.copytree(ROOT / "results/board", tmp_path / "results/board")
    board(monkeypatch, "--power", "--root", tmp_path)
    now = read(tmp_path / "results/board/plan.json")
    assert now | {"date": stored["date"]} == stored
    assert (tmp_path / "BOARD.md").read_text().replace(now["date"], stored["date"]) == page
    for picture in re.findall(r"!\[.*]\((.*)\)", page):
        assert (ROOT / picture).read_text() == (tmp_path / picture).read_text()
    host = stored["hosts"]["seg"]
    assert 0 < host["smallest_shown"] < host["smallest_shown_corrected"]
