"""tools.errors and tools.report as commands, on a tiny run; and their pages in a browser."""

import json
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from errors import UserError
from tests import launch
from tests.conftest import ROOT, TINY
from tests.tools.pages.reader import check_alone
from tools import demo_page
from tools.pages.html import write_page
from tools.report.page import page as report_page
from tools.report.runs import Run, read_runs


@pytest.fixture(scope="module")
def run(scenes, tmp_path_factory):
    """The folder of a run of 2 steps."""
    folder = tmp_path_factory.mktemp("runs")
    words = [*TINY, f"data.root={scenes}/ADEChallengeData2016", f"output_dir={folder}", "run_name=tiny"]
    words += ["steps=2", "evaluation.every=1", "batch_size=2", "logging.sinks=[]", "system.reuse_memory=false"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        patch.setattr(sys, "argv", ["train", "--cfg", "configs/small/seg.yaml", *words])
        launch.main_of("train")()
    return folder / "tiny"


@pytest.fixture
def counted(monkeypatch):
    """Parameters and MACs as if counted, which takes seconds."""
    counts = {"params": 2e6, "macs": 3e9, "input": [3, 32, 64], "upsamplers": {"params": 1e4, "macs": 1e6}}
    monkeypatch.setattr("tools.report.runs.complexity", lambda *_: counts)


def test_errors_writes_a_page_and_a_record(run, here, tmp_path, capsys):
    files = "--json", tmp_path / "record.json", "--out", tmp_path / "page.html"
    here("tools.errors.__main__", "--checkpoint", run, *files)
    record = json.loads((tmp_path / "record.json").read_text())
    result = json.loads((run / "results.json").read_text())
    assert record["errors"]["mIoU"] == pytest.approx(result["metrics"]["mIoU"], abs=0.5)
    assert [row["pixels"] for row in record["errors"]["per_class"]] == [row["pixels"] for row in result["per_class"]]
    badness = [image["badness"] for image in record["worst"]]
    assert len(badness) == record["images"] == 5
    assert badness == sorted(badness, reverse=True)
    text = (tmp_path / "page.html").read_text()
    check_alone(text)
    assert text.count('<figure class="card"') == 5
    shown = re.findall(r'<p class="why">([\d.]+) %', text)
    assert shown == [f"{value:.1f}" for value in badness]
    assert len(set(re.findall('base64,([^"]+)', text))) == 5  # each image its own
    assert "near boundaries" in capsys.readouterr().out


def test_json_alone_is_printed(run, here, tmp_path, capsys):
    here("tools.errors.__main__", "--checkpoint", run, "--out", tmp_path / "page.html", "--json", "system.workers=0")
    assert json.loads(capsys.readouterr().out)["task"] == "semantic"


def test_the_page_of_a_run_lies_in_it(run, here, capsys):
    here("tools.errors.__main__", "--checkpoint", run, "--which", "last")
    assert "last.pt, step 2, 5 images" in capsys.readouterr().out
    assert "last.pt" in (run / "errors.html").read_text()


@pytest.mark.parametrize("option", ["--out", "--json"])
def test_a_file_that_cannot_be_written_is_refused_before_the_work(run, here, monkeypatch, option, tmp_path):
    monkeypatch.setattr("tools.errors.__main__.analyse", lambda *_: pytest.fail("has begun"))
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="page"):
        here("tools.errors.__main__", "--checkpoint", run, option, tmp_path / "file/page.html")


def test_the_page_of_the_demos_shows_what_each_model_sees(run, tmp_path, monkeypatch):
    page = tmp_path / "demo/index.html"
    monkeypatch.setattr(sys, "argv", ["demo_page", f"{run}", "--images", "2", "--out", f"{page}"])
    demo_page.main()
    text = page.read_text()
    check_alone(text)
    assert text.count("mIoU ") == 1
    assert text.count("segformer with dysample") == 1
    assert text.count('<figure class="card"') == 2 * 2
    assert len(set(re.findall('base64,([^"]+)', text))) == 2 * 2  # each scene, and what the model makes of it


def test_a_report_of_two_runs_shows_what_differs(run, counted, tmp_path):
    other = tmp_path / "<other>"
    shutil.copytree(run, other)
    config = other / "config.yaml"
    config.write_text(config.read_text().replace("batch_size: 2", "batch_size: 3", 1))
    result = json.loads((other / "results.json").read_text())
    result["metrics"]["mIoU"] += 1
    (other / "results.json").write_text(json.dumps(result))
    with (other / "log.jsonl").open("a") as file:
        file.write('{"step": 3, "sect')  # cut short by a crash
    text = "".join(report_page(read_runs([run, other, run])))
    check_alone(text)
    assert "tiny, &lt;other&gt;" in text
    assert "<other>" not in text
    differ = text[text.index("Settings that differ") : text.index("settings that are equal")]
    assert "batch_size" in differ
    assert "seed" not in differ
    assert "run_name" not in text
    training = text[text.index("<h2>Training") : text.index("<h2>Evaluations")]
    assert "mIoU" not in training
    assert "loss ce" not in training  # the only term
    assert "(+1)" in text
    assert text.count('<figure class="card"') == 2
    assert all(count in text for count in ("3.00 G", "2.00 M", "10.00 k", "64 x 32"))  # width x height
    assert "could not be counted" not in text


def test_one_run_shows_pictures_of_its_last_evaluation_and_counts_as_numbers(run, counted):
    (only,) = read_runs([run])
    assert {path.parent.name for path in only.pictures().values()} == {"step_00000002"}
    text = "".join(report_page([only]))
    assert all(f"<td>{row['pixels']:,}</td>" in text for row in only.result["per_class"])


def test_the_best_score_is_marked_whichever_way_is_better(tmp_path):
    facts = {"task": "depth", "dataset": "made", "per_class": []}
    scores = {"a": {"abs_rel": 0.1, "delta1": 0.8}, "b": {"abs_rel": 0.2, "delta1": 0.9}}
    runs = [Run(tmp_path, name, {}, [], facts | {"metrics": metrics}) for name, metrics in scores.items()]
    assert re.findall(r'<span class="best">([\d.]+)', "".join(report_page(runs))) == ["0.1", "0.9"]


@pytest.mark.parametrize(
    ("content", "what"), [("{", "is not JSON"), ("[1]", "is no result"), ('{"a": 1}', "is no result")]
)
def test_damaged_results_are_refused(run, tmp_path, content, what):
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    for name in ("config.yaml", "log.jsonl"):
        shutil.copy(run / name, damaged)
    (damaged / "results.json").write_text(content)
    with pytest.raises(UserError, match=what):
        read_runs([damaged])


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(UserError, match="is no run, since it has no config"):
        read_runs([tmp_path])


def test_a_run_that_is_not_evaluated_and_whose_data_are_gone_has_a_page(run, counted, tmp_path):
    young = tmp_path / "young"
    young.mkdir()
    lines = [line for line in (run / "log.jsonl").read_text().splitlines() if '"val"' not in line]
    (young / "log.jsonl").write_text("\n".join(lines))
    (young / "config.yaml").write_text(re.sub("root: .*", "root: /proc/nowhere", (run / "config.yaml").read_text()))
    text = "".join(report_page(read_runs([young])))
    check_alone(text)
    assert "not evaluated yet" in text


BROWSER = next((path for path in map(shutil.which, ("chromium", "chromium-browser", "google-chrome")) if path), None)


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine")
@pytest.mark.parametrize("tool", ["errors", "report"])
def test_a_browser_shows_the_page(run, here, tmp_path, tool):
    page, picture = tmp_path / "page.html", tmp_path / "page.png"
    if tool == "errors":
        here("tools.errors.__main__", "--checkpoint", run, "--out", page)
    else:
        write_page(page, report_page(read_runs([run])))
    options = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}/profile"]
    options += ["--enable-logging=stderr", "--window-size=1200,900", "--host-resolver-rules=MAP * ~NOTFOUND"]
    for action in (["--dump-dom"], [f"--screenshot={picture}"]):
        done = subprocess.run(
            [str(BROWSER), *options, *action, page.as_uri()], capture_output=True, text=True, timeout=120, check=True
        )
        assert "CONSOLE" not in done.stderr
        if action == ["--dump-dom"]:
            assert {"errors": "What is wrong with tiny", "report": "Scores"}[tool] in done.stdout
            assert done.stdout.count("<img") == {"errors": 5, "report": 1}[tool]
    colours = np.asarray(Image.open(picture).convert("RGB")).reshape(-1, 3)[::97]
    assert len(np.unique(colours, axis=0)) > 20
