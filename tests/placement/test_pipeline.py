"""The pipelined layer of FSMoE: closed forms, events, and gradients in idle windows."""

import numpy as np
import pytest

from perfplan.errors import OutOfRange
from perfplan.formulas.moe_pipeline import chunks_for_compute, chunks_for_inner, chunks_for_network
from perfplan.placement.pipeline import Chunked, best_chunks, partition_gradients, simulated

LAYER = Chunked((0.2e-3, 9e-3), (0.05e-3, 27e-3), (0.07e-3, 27e-3), (0.6e-3, 12e-3))
NETWORK = Chunked((0.5e-3, 40e-3), (0.05e-3, 3e-3), (0.07e-3, 3e-3), (0.6e-3, 4e-3))


def test_the_closed_form_optimum_is_the_least_of_the_real_times():
    for layer, real in ((LAYER, chunks_for_inner(9e-3, 0.12e-3)), (NETWORK, chunks_for_network(6e-3, 0.5e-3))):
        best = best_chunks(layer, range(1, 60))
        assert best in (int(real), int(real) + 1)
    work = Chunked((0.01e-3, 1e-3), (0.01e-3, 1e-3), (0.01e-3, 1e-3), (0.5e-3, 60e-3))
    assert best_chunks(work, range(1, 60)) in (int(chunks_for_compute(1e-3, 2e-3, 0.5e-3)), 3)


def test_one_chunk_takes_the_sum():
    assert (
        simulated(LAYER, 1) == pytest.approx(LAYER.time(1)) == pytest.approx(2 * 9.2e-3 + 27.05e-3 + 27.07e-3 + 12.6e-3)
    )


def test_gradients_hide_where_the_network_idles():
    found = partition_gradients([LAYER, LAYER, NETWORK], [1e6, 1e6, 1e6], 3e-9)
    alone = sum(min(layer.time(r) for r in (1, 2, 4, 8)) for layer in (LAYER, LAYER, NETWORK))
    assert found.proven and found.time == pytest.approx(alone, rel=1e-6) or found.time < alone + 3e6 * 3e-9
    assert found.pieces.sum() <= 3e6 + 1e-3
    assert (np.cumsum(found.pieces) <= np.cumsum([1e6, 1e6, 1e6]) + 1e-3).all()


def test_gradients_that_do_not_fit_cost_their_time():
    found = partition_gradients([NETWORK], [1e9], 3e-9)
    assert found.time == pytest.approx(min(NETWORK.time(r) for r in (1, 2, 4, 8)) + 3.0, rel=0.02)


def test_windows_and_gradients_go_together():
    with pytest.raises(OutOfRange, match="each has one"):
        partition_gradients([LAYER], [1.0, 2.0], 1e-9)
