"""Memory that a framework or a kernel decides: copies of the weights, logits, what an FP8 attention kernel keeps."""

from dataclasses import replace

import pytest

from perfplan.catalog import Catalog
from perfplan.training.estimate import estimate
from perfplan.training.job import Job
from perfplan.training.layout import Layout

LAYOUT = Layout.parse("tp1 pp1 dp8 mbs1 zero3")


@pytest.fixture(scope="module")
def job():
    catalog = Catalog()
    return Job(catalog.model("llama-3-8b"), catalog.cluster("dgx-h100"), 8, 8, 8192, catalog.recipe("bf16"),
               catalog.framework("megatron-core"))


def memory(job, **changes):
    return estimate(replace(job, framework=replace(job.framework, **changes)), LAYOUT).memory


def test_weights_cast_when_gathered_are_not_stored_twice(job):
    twice, once = memory(job), memory(job, working_copy=False)
    assert twice["weights"] == pytest.approx(2 * 8.03e9 / 8, rel=0.01) and once["weights"] == 0
    assert once["gathered weights"] == twice["gathered weights"] > 0


def test_without_a_master_copy_the_weights_stay(job):
    pure = replace(job, recipe=Catalog().recipe("bf16-pure"))
    assert memory(pure, working_copy=False)["weights"] == memory(pure)["weights"] > 0


def test_logits_by_the_bytes_that_are_alive(job):
    entries = 8192 * 128256
    assert memory(job)["logits"] == 6 * entries and memory(job, logits=2.0)["logits"] == 2 * entries


def test_an_fp8_attention_kernel_keeps_what_it_read(job):
    plain = estimate(job, LAYOUT).memory["activations"]
    eight = estimate(replace(job, recipe=replace(job.recipe, attention="fp8")), LAYOUT).memory["activations"]
    assert plain - eight == 32 * 8192 * 128 * (32 + 2 * 8)  # one byte less of q, k and v in every layer
