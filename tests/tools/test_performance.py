"""`make bench` writes one table of all comparisons."""

import re

from benchmarks.pairs import Row, record
from benchmarks.performance.__main__ import COMPARISONS, page
from tests.conftest import ROOT


def test_the_table_marks_goals_and_names_what_is_missing():
    rows = [
        Row("AP", "pycocotools", 1.0, 4.0, 4.0, 3.0),
        Row("PQ", "panopticapi", 2.0, 3.0, 1.5, 3.0),
        Row("mIoU", "a peer", 0.5, goal=1.0),
    ]
    text = page({"a": {"command": "python -m benchmarks.a", **record(rows)}, "b": {"command": "b", "exit_code": 3}})
    *table, _, _, _, failed = text.splitlines()[-9:]
    _, _, ap, pq, iou = table
    assert "| AP | pycocotools | 1 | 4 | 4.00 | 3 | met |" in ap
    assert "| PQ | panopticapi | 2 | 3 | 1.50 | 3 | **not met** |" in pq
    assert "| mIoU | a peer | 0.5 |  | not installed | 1 |  |" in iou
    assert "failed with exit code 3" in failed
    assert len({line.count("|") for line in table}) == 1


def test_every_comparison_that_writes_rows_is_run():
    files = [
        path for path in (ROOT / "benchmarks").rglob("*.py") if re.search(r"publish\(|run\(__doc__", path.read_text())
    ]
    names = {".".join(path.relative_to(ROOT / "benchmarks").with_suffix("").parts) for path in files}
    assert {name.removesuffix(".__main__") for name in names} - {"pairs", "evaluation.command"} == set(COMPARISONS)
