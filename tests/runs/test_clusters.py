"""Two nodes, as docs/clusters.md starts them, on one machine. Restarts by torchrun: see tests/faults."""

import os
import socket
import subprocess
import sys

import pytest

from tests.conftest import ROOT, logged, train

pytestmark = pytest.mark.slow


def torchrun(*words: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "torch.distributed.run", *words],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_two_nodes_equal_one_process(tiny, tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    rendezvous = ["--rdzv-backend", "c10d", "--rdzv-endpoint", f"127.0.0.1:{port}", "--rdzv-id", "test"]
    launch = ["--nnodes", "2", "--nproc-per-node", "1", *rendezvous, "train.py", "--cfg", "configs/small/seg.yaml"]
    nodes = [torchrun(*launch, *tiny, "run_name=nodes") for _ in range(2)]
    for node in nodes:
        output, _ = node.communicate(timeout=240)
        assert node.returncode == 0, output
    train(*tiny, "run_name=one")
    one, two = (logged(tmp_path / name, "train") for name in ("one", "nodes"))
    assert [line["loss"] for line in two] == pytest.approx([line["loss"] for line in one], rel=1e-5)
