"""Exchange among replicas beside a pipeline: MegaScale's shares, limits, what more overlap can only improve."""

import random

import pytest

from perfplan.overlap.orders import order
from perfplan.overlap.pipeline import Passes
from perfplan.overlap.replicas import OVERLAPS, exchanged, exposed

from .jobs import pipeline


def shown(p, m, v, gather, reduce, layers=4, unit=1.0):
    passes = Passes([unit] * p * v, [unit] * p * v, [unit] * p * v)
    made = order("interleaved" if v > 1 else "1f1b", p, m, v)
    sizes = [gather / v] * p * v, [reduce / v] * p * v
    return {how.name: exposed(made, passes, *sizes, [layers] * p * v, how) for how in OVERLAPS}


@pytest.mark.parametrize("v", [1, 2, 4])
def test_chunks_show_one_part_in_v_and_half_of_it_with_the_first_gathered_ahead(v):
    """MegaScale: (T_AG + T_RS) / v exposed, 1 / (2 v) of the whole less where the first gather runs ahead."""
    found = shown(4, 16, v, 2.0, 2.0, unit=1.0)
    assert found["nothing"] == pytest.approx(4.0)
    assert found["chunk by chunk"] == pytest.approx(4.0 / v)
    assert found["chunk by chunk, first gathered ahead"] == pytest.approx(4.0 / v - 4.0 / (2 * v))


def test_buckets_by_layer_show_the_first_and_the_last_layer():
    found = shown(4, 8, 1, 1.0, 2.0, layers=4, unit=1.0)
    assert found["layer by layer"] == pytest.approx(1.0 / 4 + 2.0 / 4)
    assert found["layer by layer, first gathered ahead"] == pytest.approx(2.0 / 4)


def test_more_overlap_never_shows_more():
    rng = random.Random(4)
    for _ in range(60):
        p, v = rng.randint(2, 5), rng.randint(1, 3)
        found = [*shown(p, p * rng.randint(1, 3), v, rng.uniform(0, 9), rng.uniform(0, 9), rng.randint(1, 6)).values()]
        nothing, chunks, ahead, layers, both = found
        assert nothing >= chunks - 1e-9 and chunks >= max(ahead, layers) - 1e-9 and min(ahead, layers) >= both - 1e-9
        assert both >= -1e-9
    assert set(shown(3, 6, 2, 0.0, 0.0).values()) == {0.0}


def test_a_layout_says_what_of_its_exchange_shows():
    found = exchanged(pipeline("llama-3.1-70b", "tp8 sp1 pp4 vpp4 dp2 zero1"))
    assert found.schedule == "interleaved" and found.reduce > found.gather > 0
    assert found.rows[0][1] == pytest.approx(found.reduce + found.gather, rel=0.05)
    assert exchanged(pipeline("llama-3.1-70b", "tp8 sp1 pp8 dp1")) is None
