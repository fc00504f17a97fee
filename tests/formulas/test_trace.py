"""Trace mode: values stay what they are, and the tree survives the arithmetic between formulas."""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Iterator

import numpy
import pytest

from perfplan.formulas.collectives import point_to_point_time, ring_all_reduce_time, ring_bandwidth
from perfplan.formulas.compute import gemm_flops, kernel_time
from perfplan.formulas.core import Node, Value, maximum, node_of, total, tracing, where


def _nodes(value: float) -> Iterator[Node]:
    node = node_of(value)
    assert node is not None
    todo = [node]
    while todo:
        node = todo.pop()
        yield node
        todo += node.children


def _mixed() -> float:
    send = point_to_point_time(2 * gemm_flops(64, 64, 64) / 4, 1e-6, ring_bandwidth(16, 2, 4e11, 5e10))
    reduce = ring_all_reduce_time(8, 1, 1e6, 1e-5, 0, 0, 4e11, 0)
    return total("T", "s", {"both": 3 * (send + reduce) - send / 2, "late": maximum(send, reduce), "none": 0.0 + send})


def test_a_value_is_the_number_it_was() -> None:
    plain = _mixed()
    with tracing():
        traced = _mixed()
    assert type(plain) is float and isinstance(traced, Value) and traced == plain


def test_every_quantity_follows_from_its_arguments() -> None:
    with tracing():
        traced = _mixed()
    seen = list(_nodes(traced))
    assert {"combination", "point_to_point_time", "gemm_flops", "ring_bandwidth", "ring_latency"} <= {
        node.formula.name for node in seen
    }
    for node in seen:
        again = node.formula.body(**{name: float(value) for name, value in node.arguments.items()})
        assert float(again) == pytest.approx(node.value, rel=1e-12), node.formula


def test_arithmetic_keeps_what_went_in() -> None:
    with tracing():
        a, b = point_to_point_time(1e6, 0, 1e9), point_to_point_time(2e6, 0, 1e9)
        combined = node_of((a + 2 * b) / 3 - a)
    assert combined is not None and combined.arguments == {"t_p2p": a, "t_p2p'": b}
    assert combined.value == pytest.approx((a + 2 * b) / 3 - a) and combined.formula.unit == "s"


@pytest.mark.parametrize(
    "operation, unit",
    [
        (lambda time, rate: time * rate, "B"),
        (lambda time, rate: rate * time, "B"),
        (lambda time, rate: time / time, "1"),
        (lambda time, rate: 2 * time, "s"),
        (lambda time, rate: time / rate, "s/B/s"),
        (lambda time, rate: rate - 1, "B/s"),
        (lambda time, rate: 1 / time, "1/s"),
        (lambda time, rate: time * time, "s*s"),
        (lambda time, rate: time * rate / rate, "s"),
    ],
)
def test_units_of_combinations_are_readable(operation, unit: str) -> None:  # type: ignore[no-untyped-def]
    with tracing():
        found = node_of(operation(point_to_point_time(1e6, 0, 1e9), ring_bandwidth(8, 1, 1e9, 1e9)))
    assert found is not None and found.formula.unit == unit


def test_what_changes_nothing_adds_nothing() -> None:
    with tracing():
        a = point_to_point_time(1e6, 0, 1e9)
        assert all(same is a for same in (a + 0.0, 0 + a, 1 * a, a / 1, a - 0, sum([a]), where(True, a, 0.0)))
        assert float(0 - a) == -float(a) and 1 / a == 1 / float(a)


def test_columns_and_copies_are_plain() -> None:
    with tracing():
        a = point_to_point_time(1e6, 0, 1e9)
    column = a * numpy.array([1.0, 2.0])
    assert column.dtype == float and column[1] == 2 * float(a)
    for copied in (copy.deepcopy(a), pickle.loads(pickle.dumps(a))):
        assert type(copied) is float and copied == a


def test_tracing_ends_with_its_block_and_nests() -> None:
    with tracing() as outer:
        kernel_time(1e9, 1e6, 0.8, 1e12, 0.8, 1e12, 1e-6)
        with tracing() as inner:
            point_to_point_time(1, 1, 1)
    assert [node.formula.name for node in outer.children] == ["kernel_time"]
    assert [node.formula.name for node in inner.children] == ["point_to_point_time"]
    assert type(point_to_point_time(1.0, 1.0, 1.0)) is float and math.isfinite(inner.children[0].value)
