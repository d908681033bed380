import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing
from pycocotools import mask as coco_mask

from datasets.coco.predictions import CocoFiles
from errors import UserError
from metrics.coco_ap import CocoAP
from structures import Instances, Prediction, Target
from tests.metrics.coco_example import CATEGORIES, INFO, Example, random_example

SIZE = (4, 6)
TRIANGLE = np.asfortranarray(np.tri(*SIZE, dtype=np.uint8))
COUNTS = coco_mask.encode(TRIANGLE)["counts"].decode()
RECORD = {"image_id": 7, "category_id": 44, "bbox": [1.5, 0, 2.25, 3], "score": 0.5}


def outputs(example: Example) -> list[Prediction]:
    """The example's predictions as a network gives them: float32, and no decimals from a file."""
    result = []
    for prediction in example.predictions():
        found = prediction.instances
        assert found is not None
        assert found.scores is not None
        instances = Instances(found.boxes, found.labels, rles=found.rles, scores=found.scores.float())
        result.append(Prediction(instances=instances))
    return result


def write(path: Path, example: Example, share: slice = slice(None)) -> None:
    files = CocoFiles(path, CATEGORIES, masks=True)
    for prediction, target in zip(outputs(example)[share], example.targets()[share], strict=True):
        files.write(prediction, target)
    files.finish()


def numbers(predictions: list[Prediction], targets: list[Target], kind: Any) -> list[float]:
    metric = CocoAP(INFO.classes, (kind,))
    metric.update(predictions, targets)
    return list(metric.compute().values())


def read_all(files: CocoFiles, targets: list[Target]) -> list[Prediction]:
    return [files.read(target) for target in targets]


def single(path: Path, records: Any, masks: bool = False) -> CocoFiles:
    path.write_text(records if isinstance(records, str) else json.dumps(records))
    return CocoFiles(path, CATEGORIES, masks)


# --- the same numbers ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_scoring_the_file_equals_scoring_the_predictions_to_the_last_digit(tmp_path: Path, kind: str) -> None:
    example = random_example(0)
    targets = example.targets()
    write(tmp_path / "new", example)
    direct = numbers(outputs(example), targets, kind)
    assert numbers(read_all(CocoFiles(tmp_path / "new", CATEGORIES, masks=True), targets), targets, kind) == direct
    example.results = json.loads((tmp_path / "new/predictions.json").read_text())
    assert [100 * value for value in example.evaluated(kind).stats] == direct


@pytest.mark.parametrize("kind", ["bbox", "segm"])
@pytest.mark.parametrize("form", ["compressed", "uncompressed"])
def test_results_without_boxes_are_scored_as_by_pycocotools(tmp_path: Path, kind: str, form: str) -> None:
    example = random_example(1)
    targets = example.targets()
    results = [{key: value for key, value in record.items() if key != "bbox"} for record in example.results]
    if form == "uncompressed":
        results = [{**record, "segmentation": uncompressed(record["segmentation"])} for record in results]
    files = single(tmp_path / "results.json", results, masks=kind == "segm")
    assert numbers(read_all(files, targets), targets, kind) == [
        100 * value for value in example.evaluated(kind, without="bbox").stats
    ]


@pytest.mark.parametrize("boxes", [False, True])
def test_hundreds_of_masks_in_an_image_are_no_problem(tmp_path: Path, boxes: bool) -> None:
    example = random_example(2)
    record = example.results[0]
    example.results += [{**record, "score": 0.001 * number} for number in range(300)]
    results = [{key: value for key, value in item.items() if boxes or key != "bbox"} for item in example.results]
    found = read_all(single(tmp_path / "a.json", results, masks=True), example.targets())
    assert numbers(found, example.targets(), "segm") == [100 * value for value in example.evaluated("segm").stats]


def uncompressed(segmentation: dict[str, Any]) -> dict[str, Any]:
    values = coco_mask.decode({**segmentation, "counts": segmentation["counts"].encode()}).ravel(order="F")
    edges = np.flatnonzero(np.diff(values, prepend=0))
    return {"size": segmentation["size"], "counts": np.diff([0, *edges, len(values)]).tolist()}


def test_polygons_are_taken_as_by_pycocotools(tmp_path: Path) -> None:
    polygon = [[1.0, 0.0, 5.0, 0.0, 5.0, 3.0], [0.0, 2.0, 2.0, 2.0, 2.0, 4.0]]
    found = single(tmp_path / "a.json", [{**RECORD, "segmentation": polygon}], masks=True).read(Target("7", SIZE))
    assert found.instances is not None
    merged = coco_mask.merge(coco_mask.frPyObjects(polygon, *SIZE))
    assert found.instances.rles == [merged["counts"]]


# --- the file --------------------------------------------------------------------------------------------------------


def test_file_has_the_form_that_coco_asks_for(tmp_path: Path) -> None:
    files = CocoFiles(tmp_path, CATEGORIES, masks=True)
    boxes, scores = torch.tensor([[1.5, 0.1, 4.5, 3]]), torch.tensor([0.7])
    instances = Instances(boxes, torch.tensor([3]), rles=[COUNTS.encode()], scores=scores)
    none = Instances(boxes[:0], torch.zeros(0, dtype=torch.int64), rles=[], scores=scores[:0])
    for image_id, found in (("b", instances), ("000000000139", instances), ("12", none), ("20", instances)):
        files.write(Prediction(instances=found), Target(image_id, SIZE))
    files.finish()
    records = json.loads((tmp_path / "predictions.json").read_text())
    assert [record["image_id"] for record in records] == [20, 139, "b"]
    y = float(np.float32(0.1))
    assert records[0] == {
        "image_id": 20,
        "category_id": 44,
        "bbox": [1.5, y, 3.0, 3 - y],
        "score": float(np.float32(0.7)),
        "segmentation": {"size": [4, 6], "counts": COUNTS},
    }
    assert [path.name for path in tmp_path.iterdir()] == ["predictions.json"]


def test_without_masks_no_segmentation_is_written(tmp_path: Path) -> None:
    files = CocoFiles(tmp_path / "out.json", CATEGORIES, masks=False)
    instances = Instances(torch.tensor([[0.0, 0, 4, 3]]), torch.tensor([0]), scores=torch.tensor([0.5]))
    files.write(Prediction(instances=instances), Target("1", SIZE))
    files.finish()
    assert json.loads((tmp_path / "out.json").read_text()) == [
        {"image_id": 1, "category_id": 2, "bbox": [0.0, 0.0, 4.0, 3.0], "score": 0.5}
    ]


def test_no_detections_at_all_make_an_empty_list(tmp_path: Path) -> None:
    files = CocoFiles(tmp_path, CATEGORIES, masks=False)
    files.finish()
    assert json.loads((tmp_path / "predictions.json").read_text()) == []
    found = files.read(Target("1", SIZE)).instances
    assert found is not None
    assert found.boxes.shape == (0, 4)


def write_in_process(process: int, processes: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=process, world_size=processes)
    write(Path(folder, "together"), random_example(2, images=4), slice(process, None, processes))
    assert Path(folder, "together/predictions.json").exists()
    dist.destroy_process_group()


@pytest.mark.parametrize("processes", [2, 5])
def test_any_number_of_processes_writes_the_same_file(tmp_path: Path, processes: int) -> None:
    arguments = (processes, str(tmp_path))
    torch.multiprocessing.start_processes(write_in_process, arguments, nprocs=processes, start_method="fork")
    write(tmp_path / "alone", random_example(2, images=4))
    alone, together = tmp_path / "alone/predictions.json", tmp_path / "together/predictions.json"
    assert alone.read_bytes() == together.read_bytes()
    assert list(together.parent.iterdir()) == [together]


def fail_in_process(process: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=process, world_size=2)
    with pytest.raises(UserError, match="cannot be written"):
        write(Path(folder, "out.json", "file"), random_example(2, images=4), slice(0, 0))
    dist.destroy_process_group()


def test_all_processes_hear_of_a_file_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "out.json").touch()
    torch.multiprocessing.start_processes(fail_in_process, (str(tmp_path),), nprocs=2, start_method="fork")


def test_an_unfinished_evaluation_leaves_earlier_results_alone(tmp_path: Path) -> None:
    write(tmp_path, random_example(0))
    before = (tmp_path / "predictions.json").read_bytes()
    files = CocoFiles(tmp_path, CATEGORIES, masks=True)
    files.write(outputs(random_example(1))[0], Target("1", SIZE))
    assert (tmp_path / "predictions.json").read_bytes() == before


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_are_not_written(tmp_path: Path, number: float) -> None:
    instances = Instances(torch.zeros(1, 4), torch.tensor([0]), scores=torch.tensor([number]))
    with pytest.raises(UserError, match="image 5 has a predicted box or score that is not finite"):
        CocoFiles(tmp_path, CATEGORIES, masks=False).write(Prediction(instances=instances), Target("5", SIZE))


def test_two_images_of_one_id_are_refused(tmp_path: Path) -> None:
    files = CocoFiles(tmp_path, CATEGORIES, masks=False)
    none = Instances(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), scores=torch.zeros(0))
    files.write(Prediction(instances=none), Target("01", SIZE))
    with pytest.raises(UserError, match="two images have the id 1; rename one"):
        files.write(Prediction(instances=none), Target("1", SIZE))


# --- reading ---------------------------------------------------------------------------------------------------------


def test_records_are_read_as_they_stand(tmp_path: Path) -> None:
    other = {**RECORD, "bbox": [0.1, 0.2, 0.3, 0.4], "score": 0.1, "category_id": 2}
    files = single(tmp_path / "a.json", [RECORD, {**RECORD, "image_id": 8}, other])
    found = files.read(Target("7", SIZE)).instances
    assert found is not None
    assert found.xywh is not None
    assert found.scores is not None
    assert found.xywh.tolist() == [[1.5, 0, 2.25, 3], [0.1, 0.2, 0.3, 0.4]]
    assert found.scores.tolist() == [0.5, 0.1]
    assert found.labels.tolist() == [3, 0]
    assert found.boxes.dtype == torch.float32
    assert found.boxes[0].tolist() == [1.5, 0, 3.75, 3]
    assert files.unread() == ["8"]


def test_images_without_records_have_no_detections(tmp_path: Path) -> None:
    found = single(tmp_path / "a.json", [RECORD], masks=False).read(Target("9", SIZE)).instances
    assert found is not None
    assert len(found.boxes) == len(found.labels) == 0


@pytest.mark.parametrize(
    ("records", "message"),
    [
        (json.dumps([RECORD])[:-9], r"a\.json: is not JSON, or incomplete \(.*\); write"),
        ("", r"a\.json: is not JSON"),
        ("[" * 100000, r"a\.json: is not JSON"),
        ({"annotations": []}, r"a\.json: is not a list of results; name"),
        ([RECORD, 3], r"a\.json: record 2: 3 is not a mapping"),
        ([{key: value for key, value in RECORD.items() if key != "score"}], "record 1: has no score"),
        ([RECORD, {key: value for key, value in RECORD.items() if key != "bbox"}], "record 2: has no bbox"),
        ([{**RECORD, "bbox": []}], "record 1: has no segmentation"),
        ([{**RECORD, "image_id": 1.5}], r"record 1: image_id 1\.5 is neither"),
        ([{**RECORD, "image_id": True}], "record 1: image_id True is neither"),
        ([{**RECORD, "category_id": 4}], r"record 1: category_id 4 is not one of \(2, 3, 7, 44, 90\)"),
        ([{**RECORD, "category_id": [2]}], r"record 1: category_id \[2\] is not one"),
        ([{**RECORD, "score": "0.5"}], "record 1: score '0.5' is not a finite number"),
        ([{**RECORD, "score": float("nan")}], "record 1: score nan is not a finite number"),
        ([{**RECORD, "score": 10**400}], "record 1: score .* is not a finite number"),
        ([{**RECORD, "bbox": [1, 2, 3]}], r"record 1: bbox \[1, 2, 3\] is not \[x, y, width, height\]"),
        ([{**RECORD, "bbox": [1, 2, 3, float("inf")]}], "record 1: bbox .* in finite numbers"),
        ([{**RECORD, "bbox": [1, 2, -3, 4]}], r"record 1: bbox \[1, 2, -3, 4\] is inverted"),
    ],
)
def test_malformed_files_are_refused_in_one_line(tmp_path: Path, records: Any, message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        single(tmp_path / "a.json", records).read(Target("7", SIZE))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "segmentation",
    [
        None,
        {"size": [6, 4], "counts": COUNTS},
        {"size": list(SIZE), "counts": COUNTS[:-1]},
        {"size": list(SIZE), "counts": "~" * 1000},
        {"size": list(SIZE), "counts": "o" * 1000},
        {"size": list(SIZE), "counts": "é"},
        {"size": list(SIZE), "counts": [3, 30]},
        {"size": list(SIZE), "counts": [30, -6]},
        {"size": list(SIZE)},
        {"counts": COUNTS},
        [[1.0, 2.0, 3.0]],
        [[1.0, 2.0, 1e30, 2.0, 3.0, 4.0]],
        "x",
    ],
)
def test_malformed_masks_are_refused_in_one_line(tmp_path: Path, segmentation: Any) -> None:
    files = single(tmp_path / "a.json", [{**RECORD, "segmentation": segmentation}], masks=True)
    with pytest.raises(UserError, match=r"a\.json: record 1: ") as error:
        files.read(Target("7", SIZE))
    assert "\n" not in str(error.value)
    assert "segmentation" in str(error.value)


def test_boxes_alone_are_refused_with_a_way_out(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"record 1: has no segmentation; .* data\.masks=false"):
        single(tmp_path / "a.json", [RECORD], masks=True).read(Target("7", SIZE))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"predictions\.json: no such file; name a file of COCO results"):
        CocoFiles(tmp_path, CATEGORIES, masks=False).read(Target("7", SIZE))


@pytest.mark.parametrize("score", [0.5, float("nan")])
def test_a_refused_image_leaves_no_part_of_a_file(tmp_path: Path, score: float) -> None:
    files = CocoFiles(tmp_path / "out", CATEGORIES, masks=False)
    instances = Instances(torch.zeros(1, 4), torch.tensor([0]), scores=torch.tensor([0.5]))
    files.write(Prediction(instances=instances), Target("1", SIZE))
    instances = Instances(torch.zeros(1, 4), torch.tensor([0]), scores=torch.tensor([score]))
    with pytest.raises(UserError):
        files.write(Prediction(instances=instances), Target("01" if score == 0.5 else "2", SIZE))
    assert list((tmp_path / "out").iterdir()) == []
