"""The formula of docs/scaling.md in cases that can be computed by hand."""

from dataclasses import replace

import pytest

from benchmarks.scaling_model import Machine, Recipe, ring_seconds, step_of, tree_seconds

MACHINE = Machine("any", flops=100.0, inside=40.0, between=10.0, latency=0.25, per_node=4, cores=2, files=1000.0)
RECIPE = Recipe("any", flops=200.0, gradient_bytes=80.0, exchanges=3, decoded=5.0, image_bytes=1.0)


def test_a_ring_of_one_sends_nothing_and_of_two_sends_half_twice():
    assert ring_seconds(80, 1, 10, 0.25) == 0
    assert ring_seconds(80, 2, 10, 0.25) == 2 * (4 + 0.25)


def test_a_long_ring_without_latency_sends_everything_twice():
    assert ring_seconds(80, 10**9, 10, 0) == pytest.approx(2 * 80 / 10)


def test_a_tree_is_climbed_and_descended():
    assert [tree_seconds(count, 0.25) for count in (1, 2, 3, 8)] == [0, 0.5, 1, 1.5]


def test_one_process_only_computes():
    step = step_of(RECIPE, replace(MACHINE, fixed=1.0), 1, 4)
    assert step.compute == step.total == 1 + 4 * 200 / 100
    assert step.bound == "compute"


def test_gradients_are_hidden_as_long_as_they_travel_during_the_overlap():
    machine = replace(MACHINE, latency=0.0, fixed=0.0)
    assert step_of(RECIPE, machine, 2, 2).exposed == 0  # 2 s on the wire, and half of 4 s to hide them
    assert step_of(RECIPE, machine, 2, 1).exposed == 1
    assert step_of(RECIPE, machine, 4, 2).exposed == 1  # 3 s, still inside a node
    assert step_of(RECIPE, machine, 8, 2).exposed == 12  # 14 s between nodes


def test_the_slowest_of_computing_decoding_and_reading_counts():
    machine = replace(MACHINE, latency=0.0, fixed=0.0)
    slow_cores = step_of(RECIPE, replace(machine, cores=0.05), 1, 2)
    assert (slow_cores.total, slow_cores.bound) == (2 / (0.05 * 5), "decode")
    slow_files = step_of(RECIPE, replace(machine, files=0.5), 4, 2)
    assert (slow_files.total, slow_files.bound) == (4 * 2 * 1 / 0.5, "files")
