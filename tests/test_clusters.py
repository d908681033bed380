"""What docs/clusters.md promises, on one machine: two nodes, and restarts by torchrun."""

import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from tests.conftest import ROOT, assert_same, logged, train, weights

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
    launch = ["--nnodes", "2", "--nproc-per-node", "1", *rendezvous, "train.py", "--cfg", "configs/demo/seg.yaml"]
    nodes = [torchrun(*launch, *tiny, "run_name=nodes") for _ in range(2)]
    for node in nodes:
        output, _ = node.communicate(timeout=240)
        assert node.returncode == 0, output
    train(*tiny, "run_name=one")
    one, two = (logged(tmp_path / name, "train") for name in ("one", "nodes"))
    assert [line["loss"] for line in two] == pytest.approx([line["loss"] for line in one], rel=1e-5)


def test_restarted_processes_end_bit_identical(tiny, tmp_path):
    options = [*tiny, "steps=30", "evaluation.every=30"]
    launch = ["--standalone", "--nproc-per-node", "2", "--max-restarts", "3", "train.py"]
    launch += ["--cfg", "configs/demo/seg.yaml"]
    agent = torchrun(*launch, *options, "run_name=killed")
    log = tmp_path / "killed/log.jsonl"
    while not (log.exists() and len(log.read_text().splitlines()) >= 8):
        assert agent.poll() is None
        time.sleep(0.05)
    children = subprocess.run(
        ["pgrep", "-P", str(agent.pid)], capture_output=True, text=True, check=True
    ).stdout.split()
    os.kill(int(children[-1]), signal.SIGKILL)
    output, _ = agent.communicate(timeout=240)
    assert agent.returncode == 0, output
    assert "resuming" in output
    train(*options, "run_name=whole", processes=2)
    assert_same(weights(tmp_path / "killed"), weights(tmp_path / "whole"))
