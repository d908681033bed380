"""Which device a process gets, and what exchanges its tensors; on machines whose GPUs are made up."""

import pytest
import torch
import torch.distributed as dist

from errors import UserError
from runtime import distributed
from runtime.distributed import Processes, start_processes


@pytest.fixture
def start(monkeypatch):
    """Start process `rank` of `count` on a machine with so many GPUs. Returns it and the backend it has chosen."""

    def call(gpus: int, rank: int = 0, count: int = 1, **options: str) -> tuple[Processes, str | None]:
        chosen: list[str] = []
        environment = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count}
        for name, value in environment.items():
            monkeypatch.setenv(name, str(value))
        monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
        monkeypatch.setattr(torch.cuda, "set_device", lambda _: None)
        monkeypatch.setattr(distributed, "shared_store", lambda: None)
        monkeypatch.setattr(dist, "init_process_group", lambda backend, **_: chosen.append(backend))
        monkeypatch.setattr(dist, "new_group", lambda **_: dist.ProcessGroup(rank, count))
        processes = start_processes(**{"device": "auto", **options})
        return processes, next(iter(chosen), None)

    return call


def test_one_process_exchanges_nothing(start):
    assert start(0) == (Processes(0, 1, torch.device("cpu")), None)
    assert start(2, device="cuda") == (Processes(0, 1, torch.device("cuda", 0)), None)


def test_every_process_has_a_gpu_of_its_own_and_nccl(start):
    for rank in range(2):
        processes, backend = start(2, rank, 2)
        assert (processes.device, backend) == (torch.device("cuda", rank), "cpu:gloo,cuda:nccl")


def test_on_cpu_gloo_exchanges_all(start):
    for gpus, options in ((0, {}), (2, {"device": "cpu"}), (1, {"device": "cpu"})):
        processes, backend = start(gpus, 1, 2, **options)
        assert (processes.device, backend) == (torch.device("cpu"), "gloo")


def test_by_gloo_processes_share_gpus_in_turn(start):
    found = [start(2, rank, 4, backend="gloo") for rank in range(4)]
    assert [processes.device.index for processes, _ in found] == [0, 1, 0, 1]
    assert {backend for _, backend in found} == {"gloo"}


def test_more_processes_than_gpus_are_refused_by_nccl_with_advice(start):
    with pytest.raises(UserError, match=r"2 processes for 1 GPUs; start one per GPU, or add system\.backend=gloo"):
        start(1, 0, 2)
    assert start(1, 1, 2, backend="gloo")[0].device == torch.device("cuda", 0)


def test_cuda_that_is_missing_is_an_error(start):
    with pytest.raises(UserError, match="PyTorch sees no CUDA device"):
        start(0, device="cuda")
