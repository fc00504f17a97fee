"""LoRA: a frozen base with adapters beside the attention projections."""

from dataclasses import replace

import pytest

from perfplan.api import estimate_train, training_job
from perfplan.errors import OutOfRange, SpecError
from perfplan.training.estimate import estimate, model_flops
from perfplan.training.layers import _tp_time, adapter_parameters
from perfplan.training.layout import Layout
from perfplan.training.network import Group, Network
from perfplan.training.ops import layer_saved
from perfplan.training.shape import Shape

JOB = {"cluster": "hgx-h200", "global_batch": 8, "seq_len": 8192, "precision": "fp8"}
LAYOUT = "tp2 sp1 dp4"


def pair(**changes):
    """The same layout, all parameters learning and adapters only."""
    return [
        estimate_train("llama-2-70b", layout=LAYOUT, method=method, **(JOB | changes)) for method in ("sft", "lora")
    ]


def test_adapters_of_the_published_benchmark():
    """Rank 16 on the attention projections of Llama-2-70B (MLPerf): 80 * 16 * (2*8192 + 10240 + 8192) parameters."""
    job = training_job("llama-2-70b", gpus=8, method="lora", **JOB)
    assert 80 * adapter_parameters(job, job.model.kinds[0], 1) == 44_564_480


def test_lora_saves_weight_gradients_and_their_state():
    full, lora = pair()
    assert lora.breakdown["backward"] < full.breakdown["backward"]
    assert lora.breakdown["forward"] > full.breakdown["forward"]  # the adapters
    assert lora.memory["optimizer"] < full.memory["optimizer"] / 100
    assert lora.memory["activations"] < full.memory["activations"]
    assert lora.memory["weights"] < full.memory["weights"]  # no transposed copy
    assert lora.breakdown["dp"] < full.breakdown["dp"] / 10


def test_a_larger_rank_costs_more():
    small, large = (
        estimate_train("llama-2-70b", layout=LAYOUT, method="lora", lora_rank=rank, **JOB) for rank in (8, 64)
    )
    assert small.step_time < large.step_time
    assert small.memory["optimizer"] < large.memory["optimizer"]


def test_frozen_products_have_two_passes():
    job = training_job("llama-2-70b", gpus=8, method="lora", **JOB)
    assert 2 / 3 < model_flops(job) / model_flops(replace(job, method="pretrain")) < 0.72


@pytest.mark.parametrize(("passes", "learning", "frozen"), [(2, 5, 4), (3, 7, 6)])
def test_frozen_weights_gather_no_input_for_a_gradient(passes, learning, frozen):
    """A region of 8192 elements, 8192 tokens: each pass gathers and scatters once; a weight gradient gathers again."""
    base = training_job("llama-2-70b", gpus=8, method="sft", **JOB)
    net, shape = Network(base.cluster, 8), Shape(8192, 1, 4, 1, 1, 1, 1)
    one = net.path(Group(4, 1)).all_gather(8192 * 8192 * base.recipe.wire["tp"])
    for method, gathers in (("sft", learning), ("lora", frozen)):
        job = replace(base, method=method)
        assert _tp_time(job, net, shape, [8192.0], passes) == pytest.approx(gathers * one)


def test_adapters_keep_the_input_that_forward_gathered():
    """FP8 keeps one byte an element: 8192 * 8192 of them for QKV on each of four ranks; learning weights keep a quarter
    for each of two blocks."""
    base = training_job("llama-2-70b", gpus=8, method="sft", **JOB)
    kept = {
        method: {item.name: item.size for item in layer_saved(job, base.model.kinds[0], Shape(8192, 1, 4, 1, 1, 1, 1))}
        for method in ("sft", "lora")
        for job in [replace(base, method=method)]
    }
    assert kept["lora"]["norm output"] == 8192 * 8192
    assert kept["sft"]["norm output"] == 2 * 8192 * 8192 / 4


def test_without_sequence_parallelism_frozen_and_learning_weights_reduce_alike():
    base = training_job("llama-2-70b", gpus=8, method="sft", **JOB)
    net, shape = Network(base.cluster, 8), Shape(8192, 1, 4, 0, 1, 1, 1)
    times = [_tp_time(replace(base, method=method), net, shape, [8192.0], 2) for method in ("sft", "lora")]
    assert times[0] == times[1] > 0


def test_frozen_weights_are_sharded_and_gathered_too():
    job = training_job("llama-2-70b", gpus=8, method="lora", **JOB)
    whole, sharded = (estimate(job, Layout.parse(f"dp8 {name}")) for name in ("zero1", "zero3"))
    assert sharded.memory["weights"] == pytest.approx(whole.memory["weights"] / 8, rel=1e-3)
    assert sharded.breakdown["sharding"] > 0


def test_impossible_adapters_are_refused():
    with pytest.raises(OutOfRange, match="lora rank is 0"):
        training_job("llama-2-70b", gpus=8, method="lora", lora_rank=0, **JOB)
    with pytest.raises(OutOfRange, match="method 'qlora'"):
        training_job("llama-2-70b", gpus=8, method="qlora", **JOB)
    with pytest.raises(SpecError, match="--lora-rank"):
        training_job("llama-2-70b", gpus=8, lora_rank=8, **JOB)


def test_adapters_of_latent_attention():
    """DeepSeek-V3: down and up of queries, down and up of keys and values, output; both sides of each."""
    job = training_job("deepseek-v3", gpus=8, method="lora", **JOB)
    sides = (7168 + 1536) + (1536 + 128 * 192) + (7168 + 576) + (512 + 128 * 256) + (128 * 128 + 7168)
    assert adapter_parameters(job, job.model.kinds[0], 1) == 16 * sides
    full, lora = (
        estimate_train("deepseek-v3", layout="dp64 ep64 zero1", method=method, **(JOB | {"global_batch": 64}))
        for method in ("sft", "lora")
    )
    assert lora.memory["optimizer"] < full.memory["optimizer"] / 100 and lora.step_time < full.step_time
