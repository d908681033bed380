"""Run everything that needs a GPU (`make gpu`): tests marked gpu, short bf16 trainings, timings.

Writes benchmarks/results/gpu_DEVICE_DATE.json after every part. If a part fails, its exit code is recorded and the
other parts still run; the exit code of this command is then 1.
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


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python with these arguments. Its stderr is shown, its stdout is returned."""
    print("$ python", *arguments, flush=True)
    return subprocess.run([sys.executable, *arguments], stdout=subprocess.PIPE, text=True, check=False)


def run_tests() -> dict[str, Any]:
    """Run the tests marked gpu. Return the exit code and the last line of pytest."""
    done = run("-m", "pytest", "-m", "gpu")
    print(done.stdout, flush=True)
    lines = done.stdout.strip().splitlines()
    return {"exit_code": done.returncode, "summary": lines[-1] if lines else ""}


def run_training(task: str) -> dict[str, Any]:
    """Train a demo on the embedded scenes for a short time in bf16. Return its last losses, speed and metrics."""
    with tempfile.TemporaryDirectory() as folder:
        options = ["precision=bf16", "steps=200", "evaluation.every=200", f"output_dir={folder}", "run_name=gpu"]
        done = run("train.py", "--cfg", f"configs/small/{task}.yaml", "system.device=cuda", *options)
        if done.returncode:
            return {"exit_code": done.returncode}
        lines = [json.loads(line) for line in (Path(folder) / "gpu/log.jsonl").read_text().splitlines()]
        result = json.loads((Path(folder) / "gpu/results.json").read_text())
    return {"exit_code": 0, "options": options, "last_step": lines[-2], "metrics": result["metrics"]}


def run_benchmark(module: str, *options: str) -> Any:
    """Run a benchmark. Return the JSON that it prints, or its exit code if it fails."""
    done = run("-m", module, *options)
    return {"exit_code": done.returncode} if done.returncode else json.loads(done.stdout)


def main() -> None:
    """Run the command."""
    if not torch.cuda.is_available():
        raise UserError("make gpu", "PyTorch sees no CUDA device", "run it on a machine with an NVIDIA GPU")
    record = machine("cuda")
    name = re.sub(r"\W+", "_", record["device"]).strip("_").lower()
    path = RESULTS / f"gpu_{name}_{record['date']}.json"
    upsamplers = "tools.benchmark", "--json", "--device", "cuda", "--dtype", "float32", "bfloat16"
    parts: dict[str, Callable[[], Any]] = {
        "sampler": partial(run_benchmark, "benchmarks.gpu.sampler"),
        "upsamplers": partial(run_benchmark, *upsamplers),
        "upsamplers_channels_last": partial(run_benchmark, *upsamplers, "--channels-last"),
        "training_steps": partial(run_benchmark, "benchmarks.gpu.training_step"),
        "segformer_step": partial(run_benchmark, "benchmarks.segformer_step", "--rounds", "1"),
        "detector_step": partial(
            run_benchmark, "benchmarks.detector_step", "--rounds", "1", "--height", "800", "--width", "1344"
        ),
        **{f"training_{task}": partial(run_training, task) for task in TASKS},
        "tests": run_tests,
    }
    for part, run_part in parts.items():
        record[part] = run_part()
        write_result(path, record)
    print(f"written to {path}")
    if any(isinstance(part, dict) and part.get("exit_code") for part in record.values()):
        sys.exit(1)


if __name__ == "__main__":
    run_command(main)
