"""Sparse attention with an indexer in serving: limits, and what it saves where contexts are long."""

from dataclasses import replace

import pytest

from perfplan.catalog import Catalog
from perfplan.formulas.attention import causal_pairs
from perfplan.serving.deploy import serving_job
from perfplan.serving.job import unmodelled
from perfplan.serving.layout import ServingLayout
from perfplan.serving.ops import Load, Pricing, _selected, index_scores
from perfplan.serving.step import decode_step, network, prompt_step, whole

CATALOG = Catalog()
SPARSE = serving_job("deepseek-v3.2", "hgx-h200", CATALOG, engine="sglang")
DENSE = serving_job("deepseek-v3", "hgx-h200", CATALOG, engine="sglang")
WIDE = ServingLayout(tp=1, adp=8, ep=8)
A = next(kind.mixer for kind in SPARSE.model.kinds)


def without(job, **changes):
    kinds = tuple(replace(kind, mixer=replace(kind.mixer, **changes)) for kind in job.model.kinds)
    return replace(job, model=replace(job.model, kinds=kinds))


def test_pairs_that_are_kept_by_hand():
    assert _selected(Load(prompt=2048.0, length=2048.0), 2048) == causal_pairs(2048)
    assert _selected(Load(prompt=10.0, length=10.0, past=4.0), 4) == 40
    assert _selected(Load(prompt=3.0, length=3.0, past=0.0), 2) == 1 + 2 + 2
    assert _selected(Load(prompt=6.0, length=3.0, past=1.0), 2) == 2 * (2 + 2 + 2)


@pytest.mark.parametrize("length", [100, 2048])
def test_up_to_its_top_k_it_is_dense_attention_and_the_indexer(length):
    net, layout = network(SPARSE, WIDE), WIDE
    for made in (lambda job: prompt_step(job, net, layout, float(length), float(length)),
                 lambda job: decode_step(job, net, layout, 16, float(length))):
        sparse, indexed, dense = (made(job)["attention"] for job in (
            SPARSE, without(SPARSE, index_topk=0), without(SPARSE, index_topk=0, index_heads=0)))
        assert sparse == indexed > dense
    projections = [decode_step(job, net, layout, 16, 100.0)["projections"] for job in (
        SPARSE, without(SPARSE, index_heads=0))]
    assert projections[0] > projections[1]


def test_the_indexer_reads_one_byte_per_key_and_takes_the_published_flops():
    p = Pricing(SPARSE, network(SPARSE, WIDE), Load(decodes=1.0, context=131_072.0), 1, 8, 8)
    chip = SPARSE.cluster.accelerator
    least = max(131_072 * 128 / chip.memory_bandwidth, 2_147_483_648 / chip.peak["fp8"])
    assert least < index_scores(p, A) < 10 * least


def test_long_contexts_gain_and_the_indexer_is_not_split():
    net = network(SPARSE, WIDE)
    sparse, dense = (whole(prompt_step(job, net, WIDE, 8192.0, 8192.0, 112_000.0)) for job in (SPARSE, DENSE))
    assert sparse < 0.5 * dense
    decodes = [whole(decode_step(job, net, WIDE, 16, 120_000.0)) for job in (SPARSE, DENSE)]
    assert decodes[0] < decodes[1]
    split = [index_scores(Pricing(SPARSE, net, Load(decodes=8.0, context=1e5), tp, 1, 1), A) for tp in (1, 8)]
    assert split[0] == split[1]
    assert any("no kernel of it was measured" in caveat for caveat in unmodelled(SPARSE))
