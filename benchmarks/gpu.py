"""All that needs a GPU, by one command (`make gpu`): tests marked gpu, short bf16 trainings, timings.

Writes benchmarks/results/gpu_DEVICE_DATE.json, anew after every part. A part that fails is recorded by its exit code,
and the others run all the same; the exit code is then 1.
"""

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from errors import UserError, run_command
from tools.benchmark.measure import machine
from workflow.results import write_result

RESULTS = Path("benchmarks/results")
TASKS = ("seg", "det", "inst", "pan", "depth")


def run(*words: str) -> subprocess.CompletedProcess[str]:
    """Run Python with these arguments, its messages shown as they come."""
    print("$ python", *words, flush=True)
    return subprocess.run([sys.executable, *words], stdout=subprocess.PIPE, text=True, check=False)


def tests() -> dict[str, Any]:
    """The last line of pytest over the tests marked gpu."""
    done = run("-m", "pytest", "-m", "gpu")
    print(done.stdout, flush=True)
    lines = done.stdout.strip().splitlines()
    return {"exit_code": done.returncode, "summary": lines[-1] if lines else ""}


def training(task: str) -> dict[str, Any]:
    """A short bf16 training of a demo on the embedded scenes: its last losses, speed and scores."""
    with tempfile.TemporaryDirectory() as folder:
        options = ["precision=bf16", "steps=200", "evaluation.every=200", f"output_dir={folder}", "run_name=gpu"]
        done = run("train.py", "--cfg", f"configs/demo/{task}.yaml", "system.device=cuda", *options)
        if done.returncode:
            return {"exit_code": done.returncode}
        lines = [json.loads(line) for line in (Path(folder) / "gpu/log.jsonl").read_text().splitlines()]
        result = json.loads((Path(folder) / "gpu/results.json").read_text())
    return {"exit_code": 0, "options": options, "last_step": lines[-2], "metrics": result["metrics"]}


def timing(module: str, *options: str) -> Any:
    """What a benchmark prints, or the exit code of one that fails."""
    done = run("-m", module, *options)
    return {"exit_code": done.returncode} if done.returncode else json.loads(done.stdout)


def main() -> None:
    """The command."""
    if not torch.cuda.is_available():
        raise UserError("make gpu", "PyTorch sees no CUDA device", "run it on a machine with an NVIDIA GPU")
    record = machine("cuda")
    name = re.sub(r"\W+", "_", record["device"]).strip("_").lower()
    path = RESULTS / f"gpu_{name}_{record['date']}.json"
    parts: dict[str, Callable[[], Any]] = {
        "upsamplers": partial(
            timing, "tools.benchmark", "--json", "--device", "cuda", "--dtype", "float32", "bfloat16"
        ),
        "segformer_step": partial(timing, "benchmarks.segformer_step", "--rounds", "1"),
        "detector_step": partial(
            timing, "benchmarks.detector_step", "--rounds", "1", "--height", "800", "--width", "1344"
        ),
        **{f"training_{task}": partial(training, task) for task in TASKS},
        "tests": tests,
    }
    for part, measure in parts.items():
        record[part] = measure()
        write_result(path, record)
    print(f"written to {path}")
    if any(isinstance(part, dict) and part.get("exit_code") for part in record.values()):
        sys.exit(1)


if __name__ == "__main__":
    run_command(main)
