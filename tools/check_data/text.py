"""The report for the terminal."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from experiment import load_experiment
from tools.check_data.check import Report, Split, check
from tools.check_data.findings import SPLITS, Finding, SplitName, by_kind, processors

SHOWN = 20  # findings of each kind


def check_and_print(cfg: Path, root: Path, splits: Sequence[SplitName] = SPLITS, overrides: Sequence[str] = ()) -> int:
    """Check the data below `root` by a configuration, on all processors, and print the report. Returns the exit code.

    Raises UserError if no split can be opened.
    """
    experiment = load_experiment(cfg, [f"data.root={json.dumps(str(root))}", *overrides])
    report = check(experiment, str(cfg), splits, processors())
    print(describe(report))
    return report.code


def describe(report: Report) -> str:
    """What the data hold, then the findings: at most SHOWN of each kind."""
    return "\n".join(_lines(report))


def verdict(report: Report) -> str:
    """The result in one sentence."""
    stopping = sum(finding.stops for finding in report.findings)
    others = len(report.findings) - stopping
    if stopping:
        text = f"{_count(stopping, 'finding')} would stop training"
        return f"{text}, and it would survive {_count(others, 'more')}" if others else text
    return f"training would survive {_count(others, 'finding')}" if others else "sound: nothing was found"


def split_lines(split: Split) -> list[str]:
    """What a split holds, line by line."""
    tally, facts = split.tally, split.tally.facts()
    unread = len(split.dataset) - int(tally.read.sum())
    lines = [_count(len(split.dataset), "image") + (f", {unread:,} of them unusable" if unread else "")]
    if sizes := facts.get("sizes"):
        height, width, number = sizes["most_common"]
        if sizes["different"] == 1:
            lines.append(f"all {width} x {height} pixels (width x height)")
        else:
            (low, high), (narrow, wide) = sizes["height"], sizes["width"]
            lines.append(
                f"{sizes['different']:,} sizes, {narrow} to {wide} wide and {low} to {high} high; most often "
                f"{width} x {height} ({number:,} times); width / height {facts['aspect_ratios'][0]:.2f} to "
                f"{facts['aspect_ratios'][1]:.2f}"
            )
    if len(split.dataset.info.classes):
        used = int((tally.images > 0).sum())
        lines.append(f"{used} of {len(tally.images)} classes")
    if "objects" in facts:
        lines.append(
            f"{_count(facts['objects'], 'object')}, at most {facts['most_objects']} in an image; "
            f"{_count(facts['images_without_objects'], 'image')} without objects"
        )
    if "depth" in facts:
        lines.append("depths of {:.2f} to {:.2f} m".format(*facts["depth"]))
    if "labelled_share" in facts:
        unit = "a depth" if split.dataset.info.task == "depth" else "a class"
        lines.append(f"{100 * facts['labelled_share']:.1f} % of the pixels have {unit}")
    if split.survey:
        where = f" (in {split.survey.read})" if split.survey.read else ""
        left_out = [f"{number:,} {reason}" for reason, number in split.survey.left_out.items() if number]
        verb = "training" if split.name == "train" else "scoring"
        lines += [f"left out by {verb}{where}: {', '.join(left_out)}"] if left_out else []
    return lines


def _lines(report: Report) -> Iterator[str]:
    yield f"{report.source}: {report.info.name}, {report.info.task}"
    for name, split in report.splits.items():
        first, *others = split_lines(split)
        yield f"{name}: {first}"
        yield from (f"  {line}" for line in others)
    for (stops, kind), findings in by_kind(report.findings).items():
        yield ""
        yield f"{kind}: {len(findings):,} " + ("that would stop training" if stops else "that training survives")
        yield from (f"  {_one(finding)}" for finding in findings[:SHOWN])
        if len(findings) > SHOWN:
            yield f"  and {len(findings) - SHOWN:,} more: --json or --out name all of them"
    yield ""
    yield verdict(report)


def _one(finding: Finding) -> str:
    return f"[{finding.split}] {finding.file}: {finding.what}; {finding.do}"


def _count(number: int, unit: str) -> str:
    return f"{number:,} {unit}{'s' if number != 1 and unit != 'more' else ''}"
