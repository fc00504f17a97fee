"""Tracing whole estimates: the numbers stay, the tree is whole, and every node follows from its arguments."""

import math

import pytest

from perfplan.api import estimate_train
from perfplan.formulas.core import node_of, tracing
from perfplan.symbolic.explain import rows, to_latex_lines, to_lines

JOBS = {
    "dense, pipeline": ("llama-3.1-405b", "dgx-h100", "tp8 sp1 pp8 vpp8 dp16 mbs1 zero1", 1536, 8192, "fp8"),
    "experts": ("deepseek-v3", "dgx-h100", "tp2 sp1 pp8 vpp2 ep16 dp64 mbs1 zero1 rc=selective", 1024, 4096, "bf16"),
    "torus, fsdp": ("llama-3-70b", "tpu-v5p", "tp4 sp1 pp1 dp64 mbs1 fsdp rc=full", 512, 8192, "bf16"),
    "context": ("llama-3-8b", "mi300x", "tp1 cp4 pp1 dp2 mbs1 zero1 rc=full", 512, 8192, "bf16"),
}


@pytest.fixture(scope="module", params=JOBS, ids=list(JOBS))
def both(request):
    model, cluster, layout, batch, seq_len, precision = JOBS[request.param]
    job = {"layout": layout, "global_batch": batch, "seq_len": seq_len, "precision": precision, "cluster": cluster}
    plain = estimate_train(model, **job)
    with tracing():
        traced = estimate_train(model, **job)
    return plain, traced


def below(value):
    seen, todo = {}, [node_of(value)]
    while todo:
        node = todo.pop()
        if id(node) not in seen:
            seen[id(node)] = node
            todo += node.children
    return list(seen.values())


def test_tracing_changes_no_number(both):
    plain, traced = both
    assert float(traced.step_time) == float(plain.step_time)
    assert (traced.breakdown, traced.memory) == (plain.breakdown, plain.memory)


def test_every_part_of_the_step_leads_to_formulas(both):
    parts = node_of(both[1].step_time).arguments
    assert sum(map(float, parts.values())) == pytest.approx(float(both[0].step_time))
    assert {name for name, part in parts.items() if part and node_of(part) is None} <= {"gaps"}


def test_every_node_follows_from_its_arguments(both):
    nodes = below(both[1].step_time)
    assert len(nodes) > 100
    for node in nodes:
        again = node.formula.body(**{name: float(value) for name, value in node.arguments.items()})
        assert float(again) == pytest.approx(node.value, rel=1e-9, abs=1e-15), node.formula.name
        assert math.isfinite(node.value)


def test_the_whole_tree_prints(both):
    tree = rows(both[1].step_time)
    assert len(to_lines(tree).splitlines()) > 100
    assert to_latex_lines(tree).count("&=") == sum(not row.repeated for row in tree)
    known = {"1", "s", "B", "B/s", "FLOP", "FLOP/s"}
    assert {row.unit for row in tree} | {given.unit for row in tree for given in row.given} <= known
