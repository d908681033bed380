"""The findings as one HTML page."""

from collections.abc import Callable, Iterable, Iterator
from datetime import date
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from tools.errors.base import Grade
from tools.errors.tide import KINDS
from tools.pages.charts import histogram, reliability
from tools.pages.html import bar, breakable, card, charts, end, figure, lead, note, number, start, table, tile

WIDEST = 1280  # pixels of a picture, which has several panels
LARGEST_MATRIX = 24  # classes
EXPLAINED = {
    "classification": "the right place, another class",
    "localisation": "the right class, IoU 0.1 to 0.5",
    "both": "another class and IoU 0.1 to 0.5",
    "duplicate": "an object that a better detection has found",
    "background": "nothing is there: IoU 0.1 or less",
    "missed": "an object without any detection",
}

Picture = tuple[str, Grade, np.ndarray]


def page(record: dict[str, Any], pictures: Iterable[Picture]) -> Iterator[str]:
    """The page in parts. pictures: id, grade and RGB picture of the worst images, worst first."""
    run = Path(record["checkpoint"])
    name = run.parent.parent.name if run.parent.name == "checkpoints" else run.name
    yield start(f"{name}: errors")
    yield f'<header><p class="kicker">{escape(record["dataset"])} · {record["task"]} · {date.today()}</p>'
    yield f"<h1>What is wrong with {escape(name)}</h1>"
    where = breakable(record["checkpoint"])
    yield f'<p class="note">{where}, step {record["step"]}, {record["images"]} images</p></header>'
    errors = record["errors"]
    shown: dict[str, Callable[[dict[str, Any]], Iterator[str]]]
    shown = {"semantic": _semantic, "panoptic": _panoptic, "depth": _depth}
    yield from shown.get(record["task"], _objects)(errors)
    yield "<h2>The worst images</h2>"
    yield '<p class="lead">Worst first. Click one to enlarge it.</p><div class="sheet wide">'
    for index, (image, grade, picture) in enumerate(pictures):
        yield card(picture, index, grade.why, image, WIDEST)
    yield "</div>"
    yield end("tools.errors")


# --- boxes and masks -------------------------------------------------------------------------------------------------


def _objects(errors: dict[str, Any]) -> Iterator[str]:
    for kind, found in errors.items():
        name = {"bbox": "Boxes", "segm": "Masks"}[kind]
        right, calibration = found["count"]["right"], found["calibration"]
        yield f'<h2>{name}: what costs AP</h2><p class="lead">AP at IoU 0.5 that would be gained if all errors of one '
        yield "kind were repaired (TIDE, Bolya et al., ECCV 2020). The parts do not add up to what is lost.</p>"
        yield '<div class="tiles">'
        facts = [f"{found['objects']:,} objects, {right:,} found", f"{found['detections']:,} detections of any score"]
        yield tile("AP50", number(found["AP50"]), facts)
        largest = max(KINDS, key=lambda name: found["lost"][name])
        yield tile("Most is lost to", largest, [EXPLAINED[largest], f"{number(found['lost'][largest])} AP"])
        ece = ["mean distance between scores and the share of detections that are right"]
        yield tile("Calibration error", f"{number(calibration['ece'])} %", ece)
        yield '</div><div class="charts kinds">'
        yield figure("AP lost to each kind of error", _kinds(found))
        yield figure("Scores, and how many of these detections are right", reliability(calibration["bins"]))
        yield "</div><h3>By size</h3>"
        yield lead("AP lost to the errors about objects of one size: small below 32², large from 96² pixels.")
        rows = [{"name": row["size"], **row} for row in found["per_size"]]
        yield _lost_table("size", rows, "objects")
        yield "<h3>By class</h3>"
        yield lead("AP that each class loses; rest on a bar to see the number of errors.")
        rows = [{"name": row["class"], **row} for row in found["per_class"]]
        yield _lost_table("class", sorted(rows, key=lambda row: -row["objects"]), "objects", "AP50")


def _kinds(found: dict[str, Any]) -> str:
    most = max(found["lost"].values())
    rows = []
    for index, kind in enumerate(KINDS):
        lost, count = found["lost"][kind], found["count"][kind]
        label = f'<i class="c{index}"></i>{kind}<p class="do">{EXPLAINED[kind]}</p>'
        rows.append([label, bar(lost, most, number(lost), f"{count:,} errors", f"c{index}"), f"{count:,}"])
    return f'<div class="compact">{table(["kind", "AP lost", "errors"], rows)}</div>'


def _lost_table(first: str, rows: list[dict[str, Any]], *numbers: str) -> str:
    most = max(
        (row["lost"][kind] for row in rows for kind in KINDS if row["lost"][kind] == row["lost"][kind]), default=0
    )
    cells = []
    for row in rows:
        plain = [f"{row[name]:,}" if isinstance(row[name], int) else number(row[name]) for name in numbers]
        bars = []
        for index, kind in enumerate(KINDS):
            lost, count = row["lost"][kind], row["count"][kind]
            bars.append(bar(lost, most, number(lost), f"{row['name']}, {kind}: {count:,} errors", f"c{index}"))
        cells.append([escape(row["name"]), *plain, *bars])
    return f'<div class="compact">{table([first, *numbers, *KINDS], cells)}</div>'


# --- semantic segmentation -------------------------------------------------------------------------------------------


def _semantic(errors: dict[str, Any]) -> Iterator[str]:
    near, inside = errors["boundary"], errors["interior"]
    total = near["pixels"] + inside["pixels"]
    yield '<div class="tiles">'
    yield tile("mIoU", number(errors["mIoU"]), [f"{number(errors['accuracy'])} % of the pixels are right"])
    yield tile(
        "Near boundaries",
        f"{number(near['accuracy'])} %",
        [f"of {_part(near['pixels'], total)} of the pixels are right"],
    )
    yield tile(
        "In the interior",
        f"{number(inside['accuracy'])} %",
        [f"of {_part(inside['pixels'], total)} of the pixels are right"],
    )
    calibration = errors["calibration"]
    if calibration["ece"] is not None:
        about = ["mean distance between the probability of a class and the share of such pixels that are right"]
        yield tile("Calibration error", f"{number(calibration['ece'])} %", about)
    yield "</div>"
    if calibration["ece"] is not None:
        title = "Probability of the predicted class, and how many of these pixels are right"
        yield charts([figure(title, reliability(calibration["bins"]))])
    near_is = f"within {100 * errors['boundary_ratio']:g} % of the image diagonal of another class or no label"
    yield note(f"Near: {near_is}." + (f" {_uncalibrated(errors)}" if calibration["ece"] is None else ""))
    yield "<h2>What is taken for what</h2>"
    yield '<p class="lead">Rows are true classes, columns predicted ones, in percent of the pixels of the row.</p>'
    yield _matrix(errors)
    yield '<p class="gap"></p>'
    most = max((item["share_of_errors"] for item in errors["confusions"]), default=0)
    rows = [
        [
            escape(item["true"]),
            escape(item["predicted"]),
            bar(item["share_of_errors"], most, f"{number(item['share_of_errors'])} %", f"{item['pixels']:,} pixels"),
        ]
        for item in errors["confusions"]
    ]
    yield table(["true", "predicted", "share of all wrong pixels"], rows)
    yield "<h2>Classes</h2>"
    columns = ("IoU", "recall", "precision", "boundary", "interior")
    ordered = sorted(errors["per_class"], key=lambda row: -row["pixels"])
    rows = [
        [escape(row["class"]), *(bar(row[name], 100, number(row[name])) for name in columns), f"{row['pixels']:,}"]
        for row in ordered
    ]
    yield '<p class="lead">In percent; boundary and interior: the share of their pixels that is right.</p>'
    yield f'<div class="compact">{table(["class", *columns, "pixels"], rows)}</div>'


def _matrix(errors: dict[str, Any]) -> str:
    """The confusion matrix of the classes with the most wrong pixels, at most LARGEST_MATRIX."""
    matrix, names = np.array(errors["confusion"]), [row["class"] for row in errors["per_class"]]
    diagonal = matrix.diagonal()
    wrong = matrix.sum(0) + matrix.sum(1) - 2 * diagonal
    order = np.argsort(-wrong, kind="stable")[:LARGEST_MATRIX]
    used: list[int] = sorted(order[(matrix.sum(0) + matrix.sum(1))[order] > 0].tolist())
    shares = 100 * matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    heads = "".join(f"<th>{escape(names[column])}</th>" for column in used)
    rows = []
    for row in used:
        cells = []
        for column in used:
            value, own = shares[row, column], ' class="own"' if row == column else ""
            text = f"{value:.0f}" if value >= 0.5 else ""
            title = f"{names[row]} as {names[column]}: {value:.2f} %, {matrix[row, column]:,} pixels"
            cells.append(f'<td{own} style="--share:{min(value, 85):.0f}" title="{escape(title)}">{text}</td>')
        rows.append(f"<tr><th>{escape(names[row])}</th>{''.join(cells)}</tr>")
    left_out = len(names) - len(used)
    head, body = f"<thead><tr><th></th>{heads}</tr></thead>", f"<tbody>{''.join(rows)}</tbody>"
    rest = note(f"Without {left_out} classes that have fewer errors.") if left_out else ""
    return f'<div class="scroll"><table class="matrix">{head}{body}</table></div>{rest}'


def _uncalibrated(errors: dict[str, Any]) -> str:
    return f"Calibration: none, since {errors['calibration']['reason']}."


def _part(part: int, whole: int) -> str:
    return f"{100 * part / whole:.0f} %" if whole else "none"


# --- panoptic segmentation -------------------------------------------------------------------------------------------


def _panoptic(errors: dict[str, Any]) -> Iterator[str]:
    values, ious = errors["metrics"], errors["IoU"]
    yield '<div class="tiles">'
    yield tile("PQ", number(values["PQ"]), [f"things {number(values['PQ_th'])}, stuff {number(values['PQ_st'])}"])
    yield tile(
        "Matched",
        f"{errors['TP']:,}",
        [f"IoU {number(ious['mean'])} on average", f"RQ {number(values['RQ'])}, SQ {number(values['SQ'])}"],
    )
    yield tile(
        "Not matched",
        f"{errors['FN'] + errors['FP']:,}",
        [f"{errors['FN']:,} true ones (FN)", f"{errors['FP']:,} predicted ones (FP)"],
    )
    yield "</div>"
    yield note(_uncalibrated(errors))
    if errors["TP"]:
        counts = np.array(ious["counts"])
        chart = histogram({"val": (np.array(ious["edges"]), counts)}, "{:.0f}".format, "segments")
        yield f"<h2>IoU of the matched segments</h2>{charts([figure('Segments by their IoU, in percent', chart)])}"
    yield "<h2>Classes</h2>"
    yield lead("Matched segments (TP), predicted ones that match none (FP), true ones that are not found (FN).")
    most = max((row[name] for row in errors["per_class"] for name in ("TP", "FP", "FN")), default=0)
    rows = []
    for row in sorted(errors["per_class"], key=lambda row: -row["TP"] - row["FN"]):
        bars = [
            bar(row[name], most, f"{row[name]:,}", colour=f"c{colour}")
            for name, colour in (("TP", 2), ("FP", 1), ("FN", 3))
        ]
        ious = [number(row["IoU"][name]) for name in ("mean", "median", "lowest_tenth")]
        rows.append(
            [
                escape(row["class"]),
                "thing" if row["thing"] else "stuff",
                bar(row["PQ"], 100, number(row["PQ"])),
                *bars,
                *ious,
            ]
        )
    heads = ["class", "", "PQ", "TP", "FP", "FN", "mean IoU", "median", "lowest tenth"]
    yield f'<div class="compact">{table(heads, rows)}</div>'


# --- depth -----------------------------------------------------------------------------------------------------------


def _depth(errors: dict[str, Any]) -> Iterator[str]:
    every = errors["all"]
    yield '<div class="tiles">'
    yield tile("abs_rel", number(every["abs_rel"], "{:.3f}"), ["mean of |predicted - true| / true, over all pixels"])
    yield tile(
        "rms", f"{number(every['rms'], '{:.3f}')} m", [f"{number(100 * every['delta1'])} % within a factor of 1.25"]
    )
    side = "too far" if every["bias"] > 0 else "too near"
    yield tile("Bias", f"{number(every['bias'], '{:+.3f}')} m", [f"{side} on average"])
    yield "</div>"
    yield note(f"Over {every['pixels']:,} pixels. {_uncalibrated(errors)}")
    yield '<h2>By distance</h2><p class="lead">The true depth in metres.</p>'
    yield _bins(errors["by_distance"], "{:.1f}", "metres", 1)
    yield "<h2>By gradient</h2>"
    change = "How much the true depth changes from pixel to pixel, in percent of the depth"
    yield lead(f"{change}: flat surfaces first, the edges of things last.")
    yield _bins(errors["by_gradient"], "{:.1f}", "percent per pixel", 100)


def _bins(bins: list[dict[str, Any]], form: str, name: str, scale: float) -> str:
    most = {
        key: max((abs(item[key]) for item in bins if item["pixels"]), default=0) for key in ("abs_rel", "rms", "pixels")
    }
    rows = []
    for item in bins:
        low, high = form.format(item["from"] * scale), None if item["to"] is None else form.format(item["to"] * scale)
        rows.append(
            [
                f"{low} to {high}" if high else f"{low} or more",
                bar(item["abs_rel"], most["abs_rel"], number(item["abs_rel"], "{:.3f}"), colour="c1"),
                bar(item["rms"], most["rms"], number(item["rms"], "{:.3f}"), colour="c3"),
                number(item["bias"], "{:+.3f}"),
                number(100 * item["delta1"]),
                bar(item["pixels"], most["pixels"], f"{item['pixels']:,}", colour="c5"),
            ]
        )
    return table([name, "abs_rel", "rms in m", "bias in m", "delta1 in %", "pixels"], rows)
