"""Physical limits of the collectives: one rank is free, more bandwidth never hurts, shards sum to the whole."""

from __future__ import annotations

import inspect

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perfplan.formulas import collectives as c
from perfplan.formulas.core import FORMULAS, Formula
from perfplan.symbolic.declared import parameters

GROUPS = [
    f
    for f in FORMULAS.values()
    if f.body.__module__ == c.__name__ and f.unit == "s" and "ranks" in inspect.signature(f.body).parameters
]
BOUND = [
    f
    for f in FORMULAS.values()
    if f.body.__module__ == c.__name__ and any(p.unit == "B/s" for p in parameters(f).values())
]
names = {"ids": lambda f: f.name}

size = st.floats(1, 1e12)
seconds = st.floats(0, 1e-2)
rate = st.floats(1e8, 1e13)
power = st.integers(0, 12).map(lambda k: 2**k)


@st.composite
def arguments(draw: st.DrawFn, collective: Formula, ranks: int | None = None) -> dict[str, float]:
    """Arguments of one collective: a group of `ranks` ranks (any power of two if None) in some of its domains."""
    members = ranks or draw(power)
    domains = draw(st.integers(0, 12).map(lambda k: min(2**k, members)))
    fixed = {
        "ranks": members,
        "domains": domains,
        "axes": draw(st.integers(1, 3)),
        "wrap": draw(st.integers(0, 1)),
        "passes": draw(st.integers(1, 2)),
        "chunks": draw(st.integers(1, 64)),
    }
    by_unit = {"B": size, "s": seconds, "B/s": rate}
    units = {name: parameter.unit for name, parameter in parameters(collective).items()}
    return {name: fixed[name] if name in fixed else draw(by_unit[unit]) for name, unit in units.items()}


@pytest.mark.parametrize("collective", GROUPS, **names)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_one_rank_costs_exactly_nothing(collective: Formula, data: st.DataObject) -> None:
    assert collective.body(**data.draw(arguments(collective, ranks=1))) == 0


@pytest.mark.parametrize("collective", BOUND, **names)
@settings(max_examples=25, deadline=None)
@given(data=st.data(), factor=st.floats(1, 100))
def test_more_bandwidth_is_never_slower(collective: Formula, data: st.DataObject, factor: float) -> None:
    before = data.draw(arguments(collective))
    units = {name: parameter.unit for name, parameter in parameters(collective).items()}
    faster = {name: value * factor if units[name] == "B/s" else value for name, value in before.items()}
    slack = 1 + 1e-12
    if collective.unit == "B/s":
        assert collective.body(**faster) * slack >= collective.body(**before)
    else:
        assert collective.body(**faster) <= collective.body(**before) * slack


@pytest.mark.parametrize("collective", [f for f in GROUPS if "size" in inspect.signature(f.body).parameters], **names)
@settings(max_examples=25, deadline=None)
@given(data=st.data(), factor=st.floats(1, 100))
def test_more_bytes_are_never_faster(collective: Formula, data: st.DataObject, factor: float) -> None:
    before = data.draw(arguments(collective))
    assert collective.body(**before | {"size": before["size"] * factor}) * (1 + 1e-12) >= collective.body(**before)


@given(ranks=power, size=size, bandwidth=rate)
def test_an_all_reduce_is_a_reduce_scatter_and_an_all_gather(ranks: int, size: float, bandwidth: float) -> None:
    halves = 2 * c.ring_all_gather_time(ranks, 1, size, 0, 0, 0, bandwidth, 0)
    assert c.ring_all_reduce_time(ranks, 1, size, 0, 0, 0, bandwidth, 0) == pytest.approx(halves)
    assert c.two_shot_all_reduce_time(ranks, size, 0, bandwidth) == pytest.approx(halves)


@given(ranks=power, shard=size, bandwidth=rate)
def test_shards_gathered_one_by_one_make_the_whole(ranks: int, shard: float, bandwidth: float) -> None:
    """Ring all-gather of n shards: each rank receives the n - 1 shards that it lacks, one message each."""
    one_by_one = (ranks - 1) * c.point_to_point_time(shard, 0, bandwidth)
    assert c.ring_all_gather_time(ranks, 1, ranks * shard, 0, 0, 0, bandwidth, 0) == pytest.approx(one_by_one)


@given(domains=power, members=power, size=size, bandwidth=rate)
def test_a_hierarchy_of_equal_links_moves_what_a_ring_moves(
    domains: int, members: int, size: float, bandwidth: float
) -> None:
    """All-gather in two levels over equal links: (N-1)/N S/G + (G-1)/G S = (NG-1)/(NG) S."""
    ranks = domains * members
    flat = c.ring_all_gather_time(ranks, 1, size, 0, 0, 0, bandwidth, 0)
    levels = c.hierarchical_all_gather_time(ranks, domains, size, 0, 0, 0, bandwidth, bandwidth)
    assert levels == pytest.approx(flat)


@given(members=power, domains=power, size=size, inner=rate, outer=rate)
def test_all_to_all_never_beats_the_network(
    members: int, domains: int, size: float, inner: float, outer: float
) -> None:
    crossing = (domains - 1) / domains * size / outer
    time = c.direct_all_to_all_time(members * domains, domains, size, 0, 0, 0, inner, outer, 0)
    assert time >= crossing * (1 - 1e-12)
    assert c.two_level_all_to_all_time(members * domains, domains, size, 0, 0, 0, inner, outer) >= time * (1 - 1e-12)


@given(ranks=st.integers(2, 4096), inner=rate, outer=rate)
def test_a_ring_is_as_fast_as_its_slowest_part(ranks: int, inner: float, outer: float) -> None:
    assert c.ring_bandwidth(ranks, 1, inner, outer) == inner
    assert c.ring_bandwidth(ranks, ranks, inner, outer) == min(inner, outer)


def test_one_shot_and_two_shots_cross_where_the_reference_says() -> None:
    ranks, alpha, bandwidth = 8, 5e-6, 420e9
    cross = alpha * bandwidth / ((ranks - 1) * (1 - 2 / ranks))
    for factor, one_is_faster in ((0.9, True), (1.1, False)):
        one = c.one_shot_all_reduce_time(ranks, cross * factor, alpha, bandwidth)
        two = c.two_shot_all_reduce_time(ranks, cross * factor, alpha, bandwidth)
        assert (one < two) == one_is_faster
