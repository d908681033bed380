"""The environment of a measurement: machine, libraries, processes."""

import platform
import sys
from pathlib import Path
from typing import Any

import torch

from runtime.distributed import Processes


def cpu_name() -> str:
    """The model name of the processor on Linux, else its architecture."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def environment(processes: Processes) -> dict[str, Any]:
    """The environment of a measurement: library versions, device, number of processes."""
    cuda = processes.device.type == "cuda"
    return {
        "python": sys.version.split()[0],
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name(processes.device) if cuda else f"cpu, {torch.get_num_threads()} threads",
        "processes": processes.count,
    }
