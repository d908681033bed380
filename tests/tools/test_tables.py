"""Our counts beside the figures that the paper prints."""

import json
import re
from decimal import ROUND_DOWN
from pathlib import Path

import pytest

from errors import UserError
from tools.tables import __main__ as command
from tools.tables import verdicts
from tools.tables.__main__ import grid_text
from tools.tables.counts import HOSTS, added_macs, count, upsamplers_of
from tools.tables.grid import grid
from tools.tables.verdicts import cells, format_like, read_published
from upsamplers import NAMES, PAPER_NAMES, build_upsampler

DOCUMENT = Path(__file__).parents[2] / "docs/tables.md"
OPEN = {(9, "a2u", "Params")}
KEYS = ["table", "row", "column", "paper", "ours", "verdict", "note"]


@pytest.fixture(scope="module")
def found():
    return cells()


def stage(name: str, x: int, guide: int) -> tuple[int, int]:
    """Parameters of one stage, all and weights alone, by the formulas that the operators' papers give."""
    return {
        "deconv": (9 * x * x + x, 9 * x * x),
        "pixelshuffle": (36 * x * x + 4 * x, 36 * x * x),
        "carafe": (64 * x + 64 + 57_600 + 100, 64 * x + 57_600),
        "indexnet": (32 * guide * guide + 12 * guide, 32 * guide * guide + 8 * guide),
        "a2u": (42 * guide + 38, 38 * guide),
        "fade": (64 * (guide + x) + 14_489, 64 * (guide + x) + 14_400),
        "sapa": (34 * (guide + x) + 64, 32 * (guide + x)),
        "sapa-d": (128 * (guide + x) + 288 * x + 544, 128 * (guide + x) + 288 * x),
        "fade-lite": (25 * (guide + x) + x + 276, 25 * (guide + x) + x + 225),
        "freqfusion": (104_690, 104_192),  # for 256 and 256
        "dysample-s": (4 * x + 16, 4 * x),
        "dysample-s+": (8 * x + 16, 8 * x),
        "dysample": (32 * x + 32, 32 * x),
        "dysample+": (64 * x + 32, 64 * x),
    }[name]


def test_every_published_cell_is_there_once_and_in_order(found):
    paper = read_published()
    assert list(paper) == [4, 6, 7, 8, 9]
    expected = [
        (table, row, column, figure)
        for table, columns in paper.items()
        for column, rows in columns.items()
        for row, figure in rows.items()
    ]
    assert [(cell.table, cell.row, cell.column, cell.paper) for cell in found] == expected


def test_figures_of_other_papers_name_them(found):
    printed = {(cell.table, cell.row, cell.column): cell for cell in found if cell.row not in PAPER_NAMES}
    whole = {key: cell for key, cell in printed.items() if "R101" not in key[1]}
    assert {key: (cell.paper, cell.verdict) for key, cell in whole.items()} == {
        (4, "sapa-d", "Params"): ("+0.8M", "equal"),
        (4, "fade-lite", "Params"): ("+80K", "equal"),
        (4, "sapa-d", "FLOPs"): ("+5.3", "explained"),
        (4, "fade-lite", "FLOPs"): ("+0.89", "equal"),
        (6, "sapa-d", "Params"): ("+0.6M", "equal"),
        (8, "freqfusion", "Params"): ("+0.3M", "equal"),
    }
    assert all(cell.note.startswith("printed in ") and "arXiv" in cell.note for cell in whole.values())


def test_no_cell_is_open_but_those_named(found):
    assert {(cell.table, cell.row, cell.column) for cell in found if cell.verdict == "open"} == OPEN


def test_equal_means_the_printed_digits_and_all_else_has_a_reason(found):
    for cell in found:
        ours = round(cell.ours * 1e9) if cell.column == "FLOPs" else cell.ours
        same = format_like(ours, cell.paper) == cell.paper
        # In Table 7 no figure stands for itself: the paper's text and caption differ.
        assert same == (cell.verdict == "equal") or (same and cell.table == 7)
        assert cell.note or cell.verdict == "equal"


@pytest.mark.parametrize(
    ("table", "stages"),
    [
        (4, [(256, 256)] * 6),
        (6, [(256, 256)] * 4),
        (7, [(256, 256)] * 4),
        (8, [(256, 256)] * 3),
        (9, [(768, 384), (384, 192), (192, 96), (96, 64)]),
    ],
)
def test_increments_are_those_of_the_formulas(found, table, stages):
    for cell in found:
        if cell.table == table and cell.column == "Params" and cell.paper.startswith("+"):
            each = [stage(cell.row.rpartition(", ")[2], *channels) for channels in stages]
            assert (cell.ours, cell.weights) == tuple(map(sum, zip(*each, strict=True)))


def test_whole_models(found):
    whole = {(cell.table, cell.row): cell for cell in found if cell.column == "Params" and cell.paper[0] != "+"}
    assert {key: (cell.ours, cell.verdict) for key, cell in whole.items()} == {
        (4, "bilinear"): (13_715_798, "equal"),
        (6, "nearest"): (47_061_984, "explained"),
        (6, "R101, nearest"): (66_054_112, "explained"),
        (8, "nearest"): (46_027_110, "equal"),
        (8, "R101, nearest"): (65_019_238, "equal"),
        (9, "bilinear"): (47_612_029, "equal"),
    }
    assert "46,836,640" in whole[6, "nearest"].note
    assert "Table 6 leaves out" in whole[8, "nearest"].note
    assert "65,828,768" in whole[6, "R101, nearest"].note


def test_flops_are_those_of_six_stages(found):
    inputs = [16, 32, 64, 32, 64, 64]  # sides of the maps that the head enlarges, for 512 x 512
    flops = {cell.row: cell for cell in found if cell.column == "FLOPs"}
    for name in NAMES:
        if name in flops and name != "bilinear":
            macs = sum(build_upsampler(name, 256).macs(side, side) for side in inputs)
            assert flops[name].ours == pytest.approx(macs / 1e9, abs=5e-4)
    assert (flops["bilinear"].ours, flops["bilinear"].verdict) == (15.878, "equal")
    others = {name: cell.verdict for name, cell in flops.items() if cell.verdict != "equal"}
    assert others == {"indexnet": "rounding", "fade": "explained", "sapa-d": "explained"}
    assert "with 8 operations to read a value instead of our 11, 5.282" in flops["sapa-d"].note
    assert "2.653" in flops["fade"].note
    numbers = 512 * sum(side**2 for side in inputs)  # that its BatchNorm gives
    exact = sum(build_upsampler("indexnet", 256).macs(side, side) for side in inputs)
    assert f"{(exact + 2 * numbers) / 1e9:.3f}" == "30.661"
    assert flops["indexnet"].note.endswith("or with its BatchNorm counted, 30.661")


def test_table_7_names_the_three_stages_of_the_text(found):
    for cell in found:
        if cell.table == 7:
            host = HOSTS[7]["R101, three stages" if "R101" in cell.row else "three stages"]
            assert cell.verdict == "explained"
            assert f"add {count(host, cell.row.rpartition(', ')[2]).added:,}" in cell.note


def test_maskformer_needs_the_share_of_carafe_that_the_paper_states():
    host = HOSTS[5]["Swin-B"]
    plus, carafe = count(host, "dysample-s+"), count(host, "carafe")
    assert round(100 * plus.weights / carafe.weights) == 3
    assert round(100 * added_macs(host, "dysample-s+") / added_macs(host, "carafe")) == 20


def test_counts_are_those_of_a_model_with_values():
    host = HOSTS[4][""]
    model = host.experiment("dysample+").build_model()
    counts = count(host, "dysample+")
    assert counts.total == sum(parameter.numel() for parameter in model.parameters())
    assert counts.weights == sum(module.weight_count() for module in upsamplers_of(model).values())
    assert counts.total - counts.added == count(host, "nearest").total


@pytest.mark.parametrize(
    ("value", "paper", "expected"),
    [
        (13_750_000, "13.7M", "13.8M"),  # halves go up
        (49_152, "+49.2K", "+49.2K"),
        (999, "+1.0K", "+1.0K"),
        (30_646_468_608, "+30.7", "+30.6"),
        (2_849_000, "3M", "3M"),
    ],
)
def test_printed_takes_the_form_of_the_paper(value, paper, expected):
    assert format_like(value, paper) == expected


def test_printed_cuts_off():
    assert (format_like(32_768, "+32.7K"), format_like(32_768, "+32.7K", ROUND_DOWN)) == ("+32.8K", "+32.7K")


def test_a_figure_that_is_not_ours_is_open():
    assert verdicts.judge_parameters(4, "carafe", "+0.5M").verdict == "open"
    assert verdicts.judge_parameters(4, "bilinear", "13.6M").verdict == "open"
    assert verdicts.judge_macs(4, "carafe", "+1.6").verdict == "open"
    assert verdicts.judge_macs(4, "bilinear", "15.8").verdict == "open"


def printed_by(monkeypatch, capsys, *words: str) -> str:
    monkeypatch.setattr("sys.argv", ["tools.tables", *words])
    command.main()
    return capsys.readouterr().out


def test_json_is_the_list_of_cells(found, monkeypatch, capsys):
    records = json.loads(printed_by(monkeypatch, capsys, "--json"))
    assert len(records) == len(found)
    assert all(list(record) == KEYS for record in records)
    assert {record["verdict"] for record in records} <= {"equal", "rounding", "explained", "open"}
    assert all(type(record["ours"]) in (int, float) and type(record["table"]) is int for record in records)


def test_text_ends_with_the_counts_of_verdicts(found, monkeypatch, capsys):
    last = printed_by(monkeypatch, capsys).splitlines()[-1]
    total, *verdicts = map(int, re.findall(r"\d+", last))
    assert total == sum(verdicts) == len(found)
    assert re.fullmatch(r"\d+ cells: \d+ equal, \d+ rounding, \d+ explained, \d+ open", last)


def test_the_grid_has_every_upsampler_and_the_paper_where_it_prints_something():
    rows = grid(4, "")
    assert [row.upsampler for row in rows] == list(NAMES)
    by_name = {row.upsampler: row for row in rows}
    assert (by_name["dysample"].paper_params, by_name["dysample"].paper_macs) == ("+49.2K", "+0.3")
    assert (by_name["naive"].paper_params, by_name["naive"].paper_macs) == (None, None)
    assert by_name["naive"].added == 6 * (2 * 4 * 256 + 2 * 4)
    assert all(row.total == by_name["nearest"].total + row.added for row in rows)


def committed() -> str:
    """The document but for the date in it."""
    text, dates = re.subn(r"(?<=printed this on )\d{4}-\d\d-\d\d", "DATE", DOCUMENT.read_text())
    assert dates == 1
    return text


def test_the_document_is_what_the_command_prints_now(monkeypatch, capsys):
    head, body = printed_by(monkeypatch, capsys, "--markdown").split("\n\n", 1)
    body = body.split("\n\n", 1)[1]  # after the line with command and date
    text = committed()
    assert text.startswith(f"{head}\n\n`python -m tools.tables --markdown --grid` printed this on DATE.\n\n{body}")
    titles = re.findall(r"### (.+) \(Table \d\), MACs", text)
    assert titles == [host.title for hosts in HOSTS.values() for host in hosts.values()]
    assert grid_text(4, "", markdown=True) in text


@pytest.mark.slow
def test_the_document_has_the_whole_grid(monkeypatch, capsys):
    now = printed_by(monkeypatch, capsys, "--markdown", "--grid")
    assert re.sub(r"(?<=printed this on )\d{4}-\d\d-\d\d", "DATE", now) == committed()


def test_two_forms_at_once_are_refused(monkeypatch, capsys):
    with pytest.raises(UserError, match=r"^command line: argument --markdown: not allowed with argument --json; "):
        printed_by(monkeypatch, capsys, "--json", "--markdown")
