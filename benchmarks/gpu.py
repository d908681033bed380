"""All that needs a GPU, by one command (`make gpu`): tests marked gpu, a short bf16 training, timings.

Writes benchmarks/results/gpu_DEVICE_DATE.json. Exit code 1 if a test or the training fails; the file is written anyway.
"""

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from benchmarks.upsamplers import machine
from errors import UserError, run_command
from eval import write_result

RESULTS = Path("benchmarks/results")


def run(*words: str) -> subprocess.CompletedProcess[str]:
    """Run Python with these arguments, its messages shown as they come."""
    print("$ python", *words, flush=True)
    return subprocess.run([sys.executable, *words], stdout=subprocess.PIPE, text=True, check=False)


def tests() -> dict[str, Any]:
    """The last line of pytest over the tests marked gpu."""
    done = run("-m", "pytest", "-m", "gpu")
    print(done.stdout, flush=True)
    return {"exit_code": done.returncode, "summary": done.stdout.strip().splitlines()[-1]}


def training() -> dict[str, Any]:
    """A short bf16 training on the embedded scenes: its last losses, speed and scores."""
    with tempfile.TemporaryDirectory() as folder:
        options = ["precision=bf16", "steps=200", "evaluation.every=200", f"output_dir={folder}", "run_name=gpu"]
        done = run("train.py", "--cfg", "configs/demo/seg.yaml", "system.device=cuda", *options)
        if done.returncode:
            return {"exit_code": done.returncode}
        lines = [json.loads(line) for line in (Path(folder) / "gpu/log.jsonl").read_text().splitlines()]
        result = json.loads((Path(folder) / "gpu/results.json").read_text())
    return {"exit_code": 0, "options": options, "last_step": lines[-2], "metrics": result["metrics"]}


def timings() -> dict[str, Any]:
    """Upsamplers in float32 and bfloat16, and a SegFormer-B1 training step."""
    upsamplers = {
        dtype: json.loads(run("-m", "benchmarks.upsamplers", "--dtype", dtype, "--repeats", "50").stdout)
        for dtype in ("fp32", "bf16")
    }
    return {"upsamplers": upsamplers, "segformer_step": json.loads(run("-m", "benchmarks.segformer_step").stdout)}


def main() -> None:
    """The command."""
    if not torch.cuda.is_available():
        raise UserError("make gpu", "PyTorch sees no CUDA device", "run it on a machine with an NVIDIA GPU")
    about = machine("cuda")
    record = {**about, "tests": tests(), "training": training(), "timings": timings()}
    name = re.sub(r"\W+", "_", about["device"]).strip("_").lower()
    path = RESULTS / f"gpu_{name}_{about['date']}.json"
    write_result(path, record)
    print(f"written to {path}")
    if record["tests"]["exit_code"] or record["training"]["exit_code"]:
        sys.exit(1)


if __name__ == "__main__":
    run_command(main)
