import numpy as np
import pytest

from metrics.runs import pair_runs


@pytest.mark.parametrize("shape", [(0, 0), (1, 1), (1, 7), (5, 1), (9, 13)])
def test_runs_give_both_maps_back_and_no_two_neighbours_are_equal(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    maps = [rng.integers(0, 2, shape).astype(np.int16) for _ in range(2)]
    *values, lengths = pair_runs(*maps)
    for expected, runs in zip(maps, values, strict=True):
        assert np.repeat(runs, lengths).tolist() == expected.ravel().tolist()
    left, right = values
    assert np.all((left[1:] != left[:-1]) | (right[1:] != right[:-1]))
