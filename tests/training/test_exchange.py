"""Kernels with constants of their own: engines' small all-reduces, dispatch and combine of experts."""

from dataclasses import replace

import numpy as np
import pytest

from perfplan.catalog import Catalog
from perfplan.errors import Unsupported
from perfplan.training.exchange import (
    COMBINE,
    DISPATCH,
    deduplicated,
    engine_all_reduce,
    low_latency,
    one_sided,
    send_to_experts,
)
from perfplan.training.network import Group, Network

CATALOG = Catalog()
ENGINE, ONE_SIDED, DEEPEP = (CATALOG.library(name) for name in ("trtllm-custom", "nvlink-one-sided", "deepep-v1"))
SIZES = 2.0 ** np.arange(0, 31, 3)


def path(cluster, ranks, dispatcher=None):
    machine = replace(CATALOG.cluster(cluster), dispatcher=dispatcher)
    return Network(machine, max(ranks, machine.fast_domain)).path(Group(ranks, 1))


def faster(cluster, dispatcher, factor):
    machine = CATALOG.cluster(cluster)
    levels = tuple(replace(level, bandwidth=level.bandwidth * factor) for level in machine.levels)
    return replace(machine, levels=levels, dispatcher=dispatcher)


def test_an_engine_reduces_small_messages_faster_and_large_ones_like_the_library():
    one = path("dgx-h100", 8)
    own, library = engine_all_reduce(one, ENGINE, SIZES), one.all_reduce(SIZES)
    assert own[0] < 4e-6 and library[0] > 15e-6
    assert (own <= library).all() and own[-1] == library[-1]
    assert engine_all_reduce(path("dgx-h100", 1), ENGINE, 1e6) == 0


def test_two_shots_serve_from_their_fewest_ranks_on():
    times = {n: engine_all_reduce(path("gb300-nvl72", n), ENGINE, 2.0**25) for n in (4, 8, 16)}
    assert times[4] == path("gb300-nvl72", 4).all_reduce(2.0**25)
    assert times[8] < 0.7 * path("gb300-nvl72", 8).all_reduce(2.0**25) and times[8] < times[16]


def test_an_engine_without_constants_falls_back_to_the_library():
    one = path("l40s-node", 4)
    assert engine_all_reduce(one, ENGINE, 1024.0) == one.all_reduce(1024.0)


@pytest.mark.parametrize("ranks", [16, 64])
def test_an_engine_has_no_kernels_between_domains(ranks):
    one = path("dgx-h100", ranks)
    assert engine_all_reduce(one, ENGINE, 1024.0) == one.all_reduce(1024.0)


def test_published_dispatches_are_met():
    far = path("dgx-h800", 64)
    assert low_latency(far, DEEPEP, DISPATCH, 7585792.0) == pytest.approx(186e-6, rel=0.05)
    assert low_latency(far, DEEPEP, COMBINE, 14680064.0) == pytest.approx(353e-6, rel=0.05)
    assert 7 / 8 * 153e6 / deduplicated(path("dgx-h800", 8), DEEPEP, DISPATCH, 153e6, 0.0) == pytest.approx(153e9)
    assert one_sided(path("gb200-nvl72", 8), ONE_SIDED, COMBINE, 234881024.0) == pytest.approx(322.6e-6, rel=0.05)
    assert one_sided(path("gb200-nvl72", 8), ONE_SIDED, DISPATCH, 0.0) == pytest.approx(18.9e-6, rel=0.05)


@pytest.mark.parametrize(("ranks", "dispatch", "combine"), [(8, 77, 114), (16, 118, 195), (64, 173, 314),
                                                            (256, 194, 360)])
def test_low_latency_kernels_that_use_the_links_of_a_node(ranks, dispatch, combine):
    later, one = CATALOG.library("deepep-v1-nvlink"), path("dgx-h800", ranks)
    assert low_latency(one, later, DISPATCH, 7569408.0) == pytest.approx(dispatch * 1e-6, rel=0.05)
    assert low_latency(one, later, COMBINE, 14680064.0) == pytest.approx(combine * 1e-6, rel=0.05)


def test_without_a_dispatcher_experts_are_reached_by_an_all_to_all():
    one = path("dgx-h100", 64)
    assert send_to_experts(one, DISPATCH, 1e6, 8) == one.all_to_all(8e6)


@pytest.mark.parametrize(("cluster", "dispatcher"), [("dgx-h100", DEEPEP), ("gb200-nvl72", ONE_SIDED)])
def test_a_dispatcher_is_free_alone_and_gains_from_bandwidth(cluster, dispatcher):
    assert send_to_experts(path(cluster, 1, dispatcher), DISPATCH, 1e8, 8) == 0
    times = [send_to_experts(Network(faster(cluster, dispatcher, factor), 144).path(Group(np.array([8, 64]), 1)),
                             DISPATCH, 1e8, 8) for factor in (1, 2, 8)]
    assert (times[0] >= times[1]).all() and (times[1] >= times[2]).all() and (times[0] > 0).all()


def test_tokens_that_cross_the_network_once_per_domain_beat_an_all_to_all():
    assert send_to_experts(path("dgx-h100", 16, DEEPEP), DISPATCH, 1e8, 8) < 0.6 * path("dgx-h100", 16).all_to_all(8e8)


def test_one_sided_writes_end_with_the_domain():
    wide = Network(replace(CATALOG.cluster("gb200-nvl72"), dispatcher=ONE_SIDED), 144).path(Group(144, 1))
    assert send_to_experts(wide, DISPATCH, 1e8, 8) == wide.all_to_all(8e8)


def test_an_accelerator_without_constants_is_refused():
    with pytest.raises(Unsupported, match="mi300x"):
        send_to_experts(path("mi300x-platform", 8, DEEPEP), DISPATCH, 1e6, 8)


def test_a_cluster_file_names_its_dispatcher(tmp_path):
    (tmp_path / "clusters").mkdir()
    (tmp_path / "clusters" / "mine.yaml").write_text(
        "name: mine\naccelerator: h100-sxm\nlibrary: nccl\ndispatcher: deepep-v1\naccelerators_per_node: 8\nlevels:\n"
        "  - {name: in, size: 8, topology: switch, bandwidth: 450 GB/s, latency: 1 us, launch: 5 us, "
        "efficiency: {2: 0.8}, source: test}\n"
        "  - {name: out, topology: switch, bandwidth: 50 GB/s, latency: 5 us, launch: 5 us, efficiency: {2: 0.9}, "
        "source: test}\nsources: {accelerators_per_node: test}\n")
    found = Catalog([tmp_path]).cluster("mine")
    assert found.dispatcher == DEEPEP and CATALOG.cluster("dgx-h100").dispatcher is None
