"""Groups on the network: what the algorithms that a library lists cost, and the limits they keep."""

from dataclasses import replace

import numpy as np
import pytest

from perfplan.catalog import Catalog
from perfplan.errors import Indivisible, Unsupported
from perfplan.training.estimate import estimate
from perfplan.training.job import ORDERS
from perfplan.training.layout import Layout
from perfplan.training.network import Group, Network

from .jobs import job

CATALOG = Catalog()
OPERATIONS = ("all_reduce", "all_gather", "all_to_all", "send")


def path(ranks, cluster="dgx-h100", bandwidth=1.0, **algorithms):
    machine = CATALOG.cluster(cluster)
    levels = tuple(replace(level, bandwidth=level.bandwidth * bandwidth) for level in machine.levels)
    listed = dict(machine.library.algorithms) | {name: (one,) for name, one in algorithms.items()}
    library = replace(machine.library, algorithms=listed, tuner={})
    return Network(replace(machine, levels=levels, library=library), 64).path(Group(ranks, 1))


@pytest.mark.parametrize("operation", OPERATIONS)
def test_one_rank_costs_nothing_and_bandwidth_never_hurts(operation):
    assert getattr(path(1), operation)(1e9) == 0
    sizes = 2.0 ** np.arange(0, 36, 3)
    for ranks in (2, 8, 16, 64):
        times = [getattr(path(ranks, bandwidth=factor), operation)(sizes) for factor in (1, 2, 10)]
        assert (times[0] >= times[1]).all() and (times[1] >= times[2]).all()
        assert (np.diff(times[0]) > 0).all() and np.isfinite(times[0]).all()


@pytest.mark.parametrize("operation", ["all_reduce", "all_gather", "all_to_all"])
def test_no_bytes_cost_the_latency(operation):
    empty = [float(getattr(path(ranks), operation)(0.0)) for ranks in (2, 4, 8, 16)]
    assert empty == sorted(empty) and empty[0] > 0


def test_columns_of_groups_are_priced_as_the_groups_one_by_one():
    ranks = np.array([1, 2, 8, 16, 64])
    for operation in OPERATIONS:
        columns = getattr(path(ranks), operation)(2.0**26)
        assert columns == pytest.approx([getattr(path(int(n)), operation)(2.0**26) for n in ranks])


@pytest.mark.parametrize(("operation", "name"), [
    ("all_reduce", "hierarchical"), ("all_gather", "hierarchical"), ("all_to_all", "two_level")])
def test_a_library_may_work_level_by_level(operation, name):
    ring, levels = path(64), path(64, **{operation: name})
    large = getattr(levels, operation)(2.0**30)
    assert large > getattr(ring, operation)(2.0**30)  # one level after the other: the inner links wait
    assert getattr(levels, operation)(0.0) < 64 * CATALOG.cluster("dgx-h100").levels[1].latency
    plain = {"all_reduce": "ring", "all_gather": "ring", "all_to_all": "direct"}
    assert getattr(path(8, **{operation: name}), operation)(2.0**20) == getattr(
        path(8, **{operation: plain[operation]}), operation)(2.0**20)


@pytest.mark.parametrize("operation", ["all_reduce", "all_gather", "all_to_all"])
def test_an_algorithm_that_is_not_priced_is_refused(operation):
    with pytest.raises(Unsupported, match=f"'magic' for {operation}"):
        getattr(path(8, **{operation: "magic"}), operation)(1.0)


def test_switches_reduce_from_their_fewest_ranks_on():
    level = CATALOG.cluster("dgx-h100").levels[0]
    machine = CATALOG.cluster("dgx-h100")
    times = {n: Network(machine, 64).path(Group(n, 1)).all_reduce(2.0**34) for n in (4, 8, 16)}
    assert 2.0**34 / times[8] == pytest.approx(level.reduction * level.bandwidth, rel=0.05)
    assert times[4] == pytest.approx(1.5 * 2.0**34 / dict(level.efficiency)[4] / level.bandwidth, rel=0.05)
    assert times[16] > times[4] > times[8]


def test_a_torus_is_crossed_along_its_axes():
    pod = CATALOG.cluster("tpu-v5e-pod")
    level, whole = pod.levels[0], Network(pod, 256).path(Group(256, 1))
    assert whole.all_gather(0.0) < level.launch + 20 * level.latency  # 2 axes of 16, both ways; a ring: 255 hops
    links = level.bandwidth * level.efficiency[0][1]
    assert whole.all_gather(2.0**34) == pytest.approx(255 / 256 * 2.0**34 / links, rel=1e-3)
    assert whole.all_reduce(2.0**34) == pytest.approx(2 * whole.all_gather(2.0**34))
    row = Network(pod, 256).path(Group(16, 1))  # a quarter of the all-gather of what all send
    assert row.all_to_all(2.0**30) == pytest.approx(row.all_gather(16 * 2.0**30) / 4, rel=0.1)


def test_stages_inside_data_parallelism_stay_in_the_node_and_experts_follow():
    outer, inner = (job("qwen3-30b-a3b", "dgx-h100", 64, 64, 4096, order=order) for order in ORDERS)
    layout = Layout.parse("tp2 sp1 ep2 pp4 dp8 zero1")
    far, near = estimate(outer, layout).breakdown, estimate(inner, layout).breakdown
    assert near["pp"] < far["pp"] and near["dp"] > far["dp"] and near["ep"] == far["ep"]
    flat = Layout.parse("tp2 sp1 ep2 dp32 zero1")
    assert estimate(outer, flat).breakdown == estimate(inner, flat).breakdown
    with pytest.raises(Indivisible, match="ep\\*etp = 8\\*1 to be tp\\*cp = 2\\*1"):
        estimate(inner, Layout.parse("tp2 sp1 ep8 pp4 dp8 zero1"))
