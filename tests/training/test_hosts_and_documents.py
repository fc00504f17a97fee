"""What the host launches, what graphs capture, how far attention reaches, blocks of recomputed layers."""

from dataclasses import replace

import pytest

from perfplan.api import estimate_train, plan_train, training_job
from perfplan.errors import BadLayout, OutOfRange, SpecError
from perfplan.training.job import GRAPHS
from perfplan.training.ops import CAPTURED, layer_ops
from perfplan.training.shape import Shape
from perfplan.training.stages import stages

DENSE = {"cluster": "dgx-h100", "global_batch": 64, "seq_len": 4096, "layout": "tp2 sp1 pp2 vpp2 dp4 zero1"}
EXPERTS = {"cluster": "dgx-h100", "global_batch": 64, "seq_len": 4096, "layout": "ep8 dp8 zero1"}


def dense(**changes):
    return estimate_train("llama-3-8b", **(DENSE | changes))


def experts(**changes):
    return estimate_train("qwen3-30b-a3b", **(EXPERTS | changes))


def test_a_block_of_layers_lies_between_none_and_all():
    none, some, every = (dense(layout=f"{DENSE['layout']} rc={rc}") for rc in ("none", "full:3", "full"))
    assert none.breakdown["recompute"] == 0
    share = some.breakdown["recompute"] / every.breakdown["recompute"]
    assert share == pytest.approx(3 / 8)  # 32 layers in 4 chunks of 8
    assert every.memory["activations"] < some.memory["activations"] < none.memory["activations"]


def test_a_block_longer_than_the_chunk_is_the_whole_chunk():
    block, full = dense(layout=f"{DENSE['layout']} rc=full:99"), dense(layout=f"{DENSE['layout']} rc=full")
    assert block.step_time == pytest.approx(full.step_time)
    assert block.memory == pytest.approx(full.memory)


def test_blocks_are_counted_per_chunk():
    (first, last) = stages((0,) * 8, 1, 2, 2, 1)
    assert first.layers == last.layers == (2, 2)


def test_the_search_says_that_it_does_not_cover_blocks():
    with pytest.raises(BadLayout, match="full:N"):
        plan_train("llama-3-8b", cluster="dgx-h100", gpus=8, global_batch=64, seq_len=4096, fix="rc=full:3")


@pytest.mark.parametrize("token", ["rc=full:0", "rc=full:", "rc=full:x"])
def test_blocks_without_a_length_are_refused(token):
    with pytest.raises(BadLayout):
        dense(layout=f"{DENSE['layout']} {token}")


def test_short_documents_cost_less_attention_and_as_much_of_the_rest():
    whole, short = dense(), dense(packed=256)
    assert short.step_time < whole.step_time
    assert short.memory == whole.memory
    assert dense(packed=4096).step_time == pytest.approx(whole.step_time)


def test_documents_longer_than_the_sequence_are_refused():
    with pytest.raises(OutOfRange, match="4096"):
        dense(packed=4097)


def test_graphs_only_ever_take_host_time_away():
    slow = {"settings": ("framework.launch=1ms", "framework.moe_launch=5ms", "framework.group_launch=100us")}
    from perfplan.catalog import Catalog

    eager = experts(catalog=Catalog((), slow["settings"]))
    part = experts(catalog=Catalog((), slow["settings"]), cuda_graphs=("attn", "moe_router"))
    whole = experts(catalog=Catalog((), slow["settings"]), cuda_graphs=("full_iteration",))
    assert eager.breakdown["host"] > part.breakdown["host"] > whole.breakdown["host"] == 0
    assert eager.breakdown["forward"] == part.breakdown["forward"] == whole.breakdown["forward"]
    assert whole.breakdown["gaps"] < eager.breakdown["gaps"]


def test_padded_experts_need_no_host_time_for_the_routing():
    from perfplan.catalog import Catalog

    slow = ("framework.launch=1ms", "framework.moe_launch=5ms")
    free, padded = (experts(catalog=Catalog((), slow), padded_experts=flag) for flag in (False, True))
    layers, micro_batches = 48, 8
    assert free.breakdown["host"] - padded.breakdown["host"] == pytest.approx(5e-3 * layers * micro_batches)


def test_every_operator_of_a_dense_layer_is_captured_by_attention_and_mlp_graphs():
    job = training_job("llama-3-8b", cluster="dgx-h100", gpus=8, global_batch=8, seq_len=4096)
    parts = {op.part for op in layer_ops(job, job.model.kinds[0], Shape(4096, 1, 1, 0, 1, 1, 1))}
    names = (*CAPTURED["attn"], *CAPTURED["mlp"])
    assert {part for part in parts if not part.startswith(names)} == set()


def test_unknown_graphs_and_needless_settings_are_named():
    with pytest.raises(OutOfRange, match="moe_router"):
        dense(cuda_graphs=("moe_roter",))
    with pytest.raises(SpecError, match="no routed experts"):
        dense(padded_experts=True)
    assert set(CAPTURED) == set(GRAPHS)


def test_the_sustained_clock_of_a_format_is_its_own():
    job = training_job("llama-3-8b", cluster="dgx-h100", gpus=8, global_batch=8, seq_len=4096)
    chip = replace(job.cluster.accelerator, sustained={"any": 0.9, "fp8": 0.8})
    job = replace(job, cluster=replace(job.cluster, accelerator=chip))
    assert job.peak("bf16") == pytest.approx(0.9 * job.data_sheet_peak("bf16"))
    assert job.peak("fp8") == pytest.approx(0.8 * job.data_sheet_peak("fp8"))
