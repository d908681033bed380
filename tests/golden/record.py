"""Golden runs: 20 steps of every demo, and their losses. `python -m tests.golden.record` writes losses.json anew.

A change that is not meant to change what is learnt leaves the losses as they are. One that is meant to records them
anew, in the same commit, and says why. tests/golden/test_golden.py compares.
"""

import json
import tempfile
from pathlib import Path

from datasets.scenes import write_scenes
from tests import launch
from tests.conftest import logged

LOSSES = Path(__file__).parent / "losses.json"
STEPS = 20
DATA = {
    "seg": "ADEChallengeData2016",
    "maskformer": "ADEChallengeData2016",
    "det": "coco",
    "inst": "coco",
    "pan": "coco",
    "depth": "nyu",
}


def write_golden_scenes(root: Path) -> None:
    """The scenes of `make scenes`, but fewer."""
    write_scenes(root, train=24, val=1, workers=1)


def losses_of(demo: str, scenes: Path, folder: Path) -> list[float]:
    """The losses of the first 20 steps of configs/demo/DEMO.yaml, by one process with one thread."""
    options = [
        f"data.root={scenes / DATA[demo]}",
        f"output_dir={folder}",
        f"steps={STEPS}",
        "logging.every=1",
        "evaluation.pictures=0",
        "system.device=cpu",
    ]
    done = launch.run("train", "--cfg", f"configs/demo/{demo}.yaml", *options, seconds=300)
    assert done.codes == [0], done.err
    return [line["loss"] for line in logged(folder / demo, "train")]


def main() -> None:
    """Record all."""
    with tempfile.TemporaryDirectory() as place:
        scenes = Path(place) / "scenes"
        write_golden_scenes(scenes)
        recorded = {demo: [float(f"{loss:.7g}") for loss in losses_of(demo, scenes, Path(place))] for demo in DATA}
    LOSSES.write_text(json.dumps(recorded, indent=1) + "\n")


if __name__ == "__main__":
    main()
