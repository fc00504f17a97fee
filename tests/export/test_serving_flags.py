"""Launch settings of deployments: each engine's own words, and what it has no word for."""

import json

import pytest

from perfplan.catalog import Catalog
from perfplan.cli.main import run
from perfplan.errors import Unsupported
from perfplan.export.launchers import launcher
from perfplan.export.serving import serving_flags
from perfplan.serving.deploy import serving_job
from perfplan.serving.layout import ServingLayout

CATALOG = Catalog()


def flags(engine, layout, model="deepseek-v3", priced="", role="", **more):
    priced = priced or {"tensorrt-llm": "trtllm"}.get(engine, engine)
    job = serving_job(model, "hgx-h200", CATALOG, engine=priced, **more)
    return serving_flags(CATALOG, engine, job, ServingLayout.parse(layout), sequences=64, length=4096, role=role)


def test_vllm_spreads_experts_over_all_ranks_or_not_at_all():
    found = flags("vllm", "tp1 adp8 ep8")
    assert "--enable-expert-parallel" in found.text and "--data-parallel-size 8" in found.text and not found.unmapped
    assert "expert-parallel" not in flags("vllm", "tp8").text
    assert flags("vllm", "tp8 ep4").unmapped == ("ep4 of 8 ranks",)
    assert "--tensor-parallel-size 8" in flags("vllm", "tp8 ep4").text


def test_sglang_counts_all_ranks_and_all_sequences():
    found = flags("sglang", "tp2 adp4 ep8", role="decode")
    for words in ("--tp-size 8", "--dp-size 4", "--enable-dp-attention", "--ep-size 8", "--max-running-requests 256",
                  "--disaggregation-mode decode"):
        assert words in found.text
    assert not found.unmapped


def test_tensorrt_llm_has_attention_data_parallelism_on_all_ranks_or_none():
    found = flags("tensorrt-llm", "tp1 adp8 ep4")
    assert "moe_tensor_parallel_size: 2" in found.text and "enable_attention_dp: true" in found.text
    assert "kv_cache_config:\n  free_gpu_memory_fraction" in found.text and not found.unmapped
    assert flags("tensorrt-llm", "tp2 adp4 ep8").unmapped == ("adp4 beside tp2",)


def test_formats_replicas_and_drafts_are_said():
    found = flags("vllm", "tp4 dp2", "llama-3.1-70b", kv="fp8")
    assert "--kv-cache-dtype fp8" in found.text and found.notes == ("start 2 such instances behind a router",)
    assert flags("vllm", "tp8", drafts=2, acceptance=0.7).unmapped == ("drafts 2",)
    assert "role prefill" in flags("vllm", "tp8", role="prefill").unmapped
    other = flags("vllm", "tp8", priced="sglang")
    assert "memory-utilization" not in other.text and "sglang" in other.notes[0]


def test_weights_unlike_the_checkpoint_are_said():
    assert "--quantization fp8" in flags("vllm", "tp4", "llama-3.1-70b", weights="fp8").text
    assert "quantization" not in flags("vllm", "tp4", "llama-3.1-70b").text
    assert "quantization" not in flags("vllm", "tp8").text, "published in fp8"
    found = flags("vllm", "tp4", "llama-3.1-70b", weights="awq")
    assert found.notes == ("serve a checkpoint with weights in int4, as they are priced",) and not found.unmapped


def test_tables_keep_to_their_phase():
    with pytest.raises(Unsupported, match="choose from sglang, tensorrt-llm, vllm"):
        launcher(CATALOG, "megatron-lm", "serving")
    with pytest.raises(Unsupported, match="megatron-lm"):
        launcher(CATALOG, "vllm")


def test_the_command_line_adds_them(capsys):
    load = ["--cluster", "dgx-h100", "--isl", "1000", "--osl", "200"]
    assert run(["estimate", "serve", "llama-3.1-8b", *load, "--layout", "tp1", "--concurrency", "16",
                "--engine", "vllm", "--launch", "vllm"]) == 0
    assert "--max-num-seqs 16" in capsys.readouterr().out
    assert run(["estimate", "serve", "llama-3.1-8b", *load, "--layout", "tp1", "--launch", "sglang"]) == 0
    said = capsys.readouterr().out
    assert "SGLang, 1000 + 200" in said and "not of SGLang" not in said, "the engine that is launched is priced"
    assert run(["plan", "serve", "llama-3.1-8b", *load, "--gpus", "4", "--rate", "2/s", "--kind", "disaggregated",
                "--launch", "sglang", "--json"]) == 0
    pools = json.loads(capsys.readouterr().out)["launch"]
    assert [pool["flags"].split("--disaggregation-mode ")[1] for pool in pools] == ["prefill", "decode"]
    assert run(["estimate", "serve", "llama-3.1-8b", *load, "--layout", "tp1", "--launch", "deepspeed"]) == 2
    assert "launches no serving" in capsys.readouterr().err
