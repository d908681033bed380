"""What a run logs."""

import itertools

import numpy as np
import pytest
import torch

from runtime import log as module
from runtime.distributed import Processes
from runtime.log import RunLog
from tests.conftest import logged


def test_images_per_second_leave_out_an_evaluation_and_its_pictures(tmp_path, monkeypatch):
    clock = itertools.count()  # a second later at every look
    monkeypatch.setattr(module.time, "perf_counter", lambda: next(clock))
    with RunLog(tmp_path, 0, 0, 10, 6, Processes(0, 1, torch.device("cpu"))) as log:
        log.add_losses(1, {"loss": torch.tensor(1.0)}, torch.tensor(False), ["a"])
        log.flush(0.1)
        log.add_evaluation({"mIoU": 1.0}, 5.0, ["mIoU"], "mIoU")
        log.add_picture("a", np.zeros((4, 4, 3), np.uint8))
        clock = itertools.count(100)
        log.restart_clock()
        log.add_losses(2, {"loss": torch.tensor(1.0)}, torch.tensor(False), ["a"])
        log.add_losses(3, {"loss": torch.tensor(1.0)}, torch.tensor(False), ["a"])
        log.flush(0.1)
    first, second = (line["images_per_second"] for line in logged(tmp_path, "train"))
    assert (first, second) == pytest.approx((6, 12))


def test_the_share_of_time_spent_waiting_for_data_is_logged(tmp_path, monkeypatch):
    now = 0
    monkeypatch.setattr(module.time, "perf_counter", lambda: now)
    with RunLog(tmp_path, 0, 0, 10, 6, Processes(0, 1, torch.device("cpu"))) as log:
        for step, (waiting, working) in enumerate([(1, 3), (0, 4), (2, 2)], start=1):
            with log.waiting():
                now += waiting
            now += working
            log.add_losses(step, {"loss": torch.tensor(1.0)}, torch.tensor(False), ["a"])
            if step > 1:
                log.flush(0.1)
    assert [line["waiting_for_data"] for line in logged(tmp_path, "train")] == [1 / 8, 2 / 4]
