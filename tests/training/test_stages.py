"""Uneven stages: every layer is placed once, chunks hold the floor or the ceiling of the slots."""

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perfplan.api import estimate_train
from perfplan.training.stages import chunk_sizes, stages


@given(st.integers(1, 200), st.integers(1, 64))
def test_chunks_hold_every_layer_and_floor_or_ceiling_of_the_slots(layers, chunks):
    sizes = chunk_sizes(layers, chunks)
    if sizes is None:
        return
    assert len(sizes) == chunks and sum(sizes) == layers and min(sizes) >= 0
    if layers % chunks == 0:
        assert set(sizes) == {layers // chunks}
        return
    slots = [size + (i == 0) + (i == chunks - 1) for i, size in enumerate(sizes)]
    assert set(slots) <= {(layers + 2) // chunks, -(-(layers + 2) // chunks)}


@given(st.integers(1, 200), st.integers(2, 300))
def test_a_split_exists_whenever_each_chunk_can_have_a_slot(layers, chunks):
    possible = layers % chunks == 0 or layers + 2 >= chunks
    assert (chunk_sizes(layers, chunks) is not None) == possible


def test_llama_405b_over_eight_by_eight():
    sizes = chunk_sizes(126, 64)
    assert sizes == (1, *[2] * 62, 1)
    split = stages((0,) * 126, 1, 8, 8)
    assert [(s.layers, s.first, s.last, s.count) for s in split] == [
        ((15,), True, False, 1),
        ((16,), False, False, 6),
        ((15,), False, True, 1),
    ]


@given(st.lists(st.integers(0, 3), min_size=1, max_size=130), st.integers(1, 16), st.integers(1, 8))
def test_stages_place_every_layer_of_every_kind_once(layers, pp, vpp):
    split = stages(tuple(layers), 4, pp, vpp)
    if split is None:
        assert chunk_sizes(len(layers), pp * vpp) is None
        return
    for kind in range(4):
        assert sum(stage.count * stage.layers[kind] for stage in split) == layers.count(kind)
    assert sum(stage.count for stage in split) == pp
    assert [stage.first for stage in split].count(True) == 1 and [stage.last for stage in split].count(True) == 1
    assert split[0].rank == 0 and all(0 <= stage.rank < pp for stage in split)


def test_interleaved_chunks_go_round_the_ranks():
    split = stages((0, 0, 1, 1, 2, 2, 3, 3), 4, 2, 2)
    assert [stage.layers for stage in split] == [(2, 0, 2, 0), (0, 2, 0, 2)]


@pytest.mark.parametrize(("layers", "pp", "vpp"), [(4, 8, 1), (61, 8, 9), (2, 5, 1)])
def test_too_many_chunks_are_no_split(layers, pp, vpp):
    assert stages((0,) * layers, 1, pp, vpp) is None


def test_absurdly_many_chunks_are_refused_before_they_take_memory():
    tracemalloc.start()
    assert stages((0,) * 32, 1, 1 << 11, 1 << 10) is None
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1 << 20


def test_unequal_chunks_are_a_caveat_where_they_interleave():
    named = {"cluster": "dgx-h100", "global_batch": 512, "seq_len": 4096}
    for chunks, told in (("vpp3 ", True), ("vpp4 ", False), ("", False)):
        words = estimate_train("llama-3.1-405b", layout=f"tp8 sp1 pp16 {chunks}dp4", **named).caveats
        assert any("chunks of 2 and 3 layers interleave" in each for each in words) == told
