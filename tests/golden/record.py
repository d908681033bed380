"""Golden runs: the first 10 steps of every demo. `python -m tests.golden.record` writes losses.json anew.

A change that is not meant to change what is learnt leaves the losses as they are. One that is meant to records them
anew, in the same commit, and says why. tests/runs/test_whole_runs.py compares.
"""

import argparse
import json
import tempfile
from pathlib import Path

from datasets.scenes import write_scenes
from tests import launch
from tests.conftest import logged

LOSSES = Path(__file__).parent / "losses.json"
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
    write_scenes(root, train=12, val=2, workers=1)


def arguments(demo: str, scenes: Path, folder: Path) -> list[str]:
    """The arguments of train.py for 10 steps of configs/small/DEMO.yaml, two images each, in `folder`."""
    short = ["steps=10", "batch_size=2", "logging.every=1", "evaluation.pictures=1", "system.device=cpu"]
    return [f"--cfg=configs/small/{demo}.yaml", f"data.root={scenes / DATA[demo]}", f"output_dir={folder}", *short]


def losses_of(run: Path) -> list[float]:
    """The loss of every step, to seven digits."""
    return [float(f"{line['loss']:.7g}") for line in logged(run, "train")]


def main() -> None:
    """Record all."""
    argparse.ArgumentParser(description=__doc__).parse_args()  # it has none, and must not begin by mistake
    recorded = {}
    with tempfile.TemporaryDirectory() as place:
        write_golden_scenes(Path(place) / "scenes")
        for demo in DATA:
            done = launch.run("train", *arguments(demo, Path(place) / "scenes", Path(place)), seconds=300)
            assert done.codes == [0], done.err
            recorded[demo] = losses_of(Path(place) / demo)
    LOSSES.write_text(json.dumps(recorded, indent=1) + "\n")


if __name__ == "__main__":
    main()
