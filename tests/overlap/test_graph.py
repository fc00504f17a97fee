"""Graphs of operations: what cannot be one, bounds, and the event simulation under linear interference."""

import math
import random

import pytest

from perfplan.errors import OutOfRange, SpecError, UnknownName
from perfplan.overlap.graph import Graph, Op, lower_bound
from perfplan.overlap.order_search import Search
from perfplan.overlap.simulate import list_schedule, simulate
from perfplan.overlap.timeline import Span, Timeline, difference, usage


def op(name, duration, after=(), **shares):
    return Op(name, duration, shares or {"sm": 1.0}, tuple(after))


def test_a_cycle_is_told_by_name():
    with pytest.raises(SpecError, match="cycle, among them a, b"):
        Graph.of([op("a", 1, ["b"]), op("b", 1, ["a"]), op("c", 1)])


def test_bad_operations_are_told_in_one_sentence():
    with pytest.raises(OutOfRange, match="'a' lasts -1 s"):
        op("a", -1)
    with pytest.raises(OutOfRange, match="'a' lasts nan s"):
        op("a", float("nan"))
    with pytest.raises(SpecError, match="'a' uses no resource"):
        Op("a", 1, {"sm": 0.0})
    with pytest.raises(UnknownName, match=r"'nic', which is no resource.*known are"):
        Op("a", 1, {"nic": 1.0})
    with pytest.raises(OutOfRange, match="uses 2 of sm"):
        op("a", 1, sm=2.0)
    with pytest.raises(UnknownName, match="'b' waits for 'aa', which is missing"):
        Graph.of([op("ab", 1), op("b", 1, ["aa"])])
    with pytest.raises(SpecError, match="'a' stands twice"):
        Graph.of([op("a", 1), op("a", 1)])


def test_a_lane_against_the_dependencies_is_told():
    graph = Graph.of([op("a", 1), op("b", 1, ["a"])])
    with pytest.raises(SpecError, match="order of the lanes contradicts"):
        simulate(graph, {"x": ["b", "a"]})


def test_two_that_share_a_resource_slow_each_other_in_proportion():
    graph = Graph.of([op("gemm", 10.0, sm=1.0), op("reduce", 4.0, sm=0.25, **{"scale-up": 1.0})])
    ends = {span.name: span.end for span in simulate(graph, {}).spans}
    assert ends["reduce"] == pytest.approx(5.0)  # 1.25 times slower while both run
    assert ends["gemm"] == pytest.approx(5.0 + (10.0 - 4.0))


def test_what_shares_nothing_runs_at_full_speed_and_lags_hold():
    graph = Graph.of([op("a", 2.0), op("b", 3.0, host=1.0), Op("c", 1.0, {"cpu": 1.0}, ("b",), lag=0.5)])
    assert {span.name: span.end for span in simulate(graph, {}).spans} == pytest.approx({"a": 2, "b": 3, "c": 4.5})


def test_the_bound_of_a_resource_counts_heads_and_tails():
    graph = Graph.of([
        op("a", 1.0, host=1.0), op("b", 2.0, ["a"]), op("c", 2.0, ["a"]), op("d", 1.0, ["b", "c"], host=1.0)
    ])
    assert graph.critical_path == 4.0
    assert lower_bound(graph).time == 6.0
    assert list_schedule(graph).time == 6.0


def random_graph(rng):
    ops = []
    for i in range(rng.randint(3, 12)):
        resources = rng.sample(["sm", "hbm", "scale-up", "host"], rng.randint(1, 3))
        shares = {name: rng.choice([0.25, 0.5, 1.0]) for name in resources}
        after = tuple(rng.sample([o.name for o in ops], rng.randint(0, min(2, len(ops)))))
        ops.append(Op(f"op{i}", rng.uniform(0, 3), shares, after, rank=rng.randint(0, 1)))
    return Graph.of(ops)


def test_no_timeline_beats_the_bound_and_every_dependency_holds():
    rng = random.Random(5)
    for _ in range(200):
        graph = random_graph(rng)
        for timeline in (simulate(graph, {}), list_schedule(graph), list_schedule(graph, room=2.0)):
            ends = {span.name: span.end for span in timeline.spans}
            starts = {span.name: span.start for span in timeline.spans}
            assert len(ends) == len(graph.ops)
            assert timeline.time >= lower_bound(graph).time * (1 - 1e-9)
            assert all(starts[o.name] >= ends[name] - 1e-9 for o in graph.ops for name in o.after)
            assert all(ends[o.name] - starts[o.name] >= o.duration - 1e-9 for o in graph.ops)


def test_busy_exposed_and_idle_add_up():
    spans = (
        Span("gemm", 0, 4, lane="sm", kind="gemm", resources={"sm": 1.0}),
        Span("reduce", 3, 7, lane="scale-up", kind="all-reduce", resources={"scale-up": 1.0, "sm": 0.1}),
    )
    rows = {row.resource: row for row in usage(Timeline("x", spans))}
    assert (rows["sm"].busy, rows["sm"].idle) == (4, 3)
    assert (rows["scale-up"].busy, rows["scale-up"].exposed, rows["scale-up"].idle) == (4, 3, 3)


def test_the_difference_of_two_timelines_ends_with_the_whole():
    one = Timeline("a", (Span("x", 0, 4, kind="gemm"),))
    two = Timeline("b", (Span("x", 0, 4, kind="gemm"), Span("y", 4, 9, kind="all-reduce")))
    rows = difference(one, two)
    assert [(row["kind"], row["difference"]) for row in rows] == [("all-reduce", 5), ("gemm", 0), ("whole timeline", 5)]


def test_collectives_that_keep_their_share_leave_the_rest_to_the_others():
    send = Op("send", 1.0, {"scale-up": 1.0, "sm": 0.2}, kind="all-to-all")
    graph = Graph.of([Op("product", 2.0, {"sm": 1.0}), send])
    ends = {span.name: span.end for span in simulate(graph, {}, kept=("all-to-all",)).spans}
    assert ends == pytest.approx({"send": 1.0, "product": 2.2})  # 0.8 of the product beside the send, 1.2 behind it
    ends = {span.name: span.end for span in simulate(graph, {}).spans}
    assert ends == pytest.approx({"send": 1.2, "product": 2.2})  # both 1.2 times slower, then 1.0 of the product


def test_local_search_gets_no_longer_and_gives_the_same_order_twice():
    ops = [Op("a", 2.0, {"sm": 1.0}), Op("send a", 6.0, {"scale-up": 1.0}, ("a",)),
           Op("b", 3.0, {"sm": 1.0}), Op("send b", 4.5, {"scale-up": 1.0}, ("b",)),
           Op("c", 0.4, {"sm": 1.0}, ("send b",)), Op("d", 5.0, {"sm": 1.0})]
    graph = Graph.of(ops)
    found = [Search(graph), Search(graph)]
    before = found[0].time
    for search in found:
        search.improve(100, math.inf, 0.0)
    assert lower_bound(graph).time <= found[0].time <= before <= list_schedule(graph).time
    assert found[0].timeline() == found[1].timeline()
    assert found[0].timeline().time == found[0].time == pytest.approx(12.9)
