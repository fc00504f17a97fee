"""Decode attention of one layer: what it reads, what it waits for, whose constants it takes."""

from dataclasses import replace

import numpy as np
import pytest

from perfplan.catalog import Catalog
from perfplan.catalog.constants import kernel_of, plain_dtype, variant
from perfplan.errors import Unsupported
from perfplan.serving.attention import attention_decode, decode_kernel, latent_decode


@pytest.fixture(scope="module")
def catalog():
    return Catalog()


@pytest.fixture(scope="module")
def chip(catalog):
    return catalog.accelerator("h100-sxm")


@pytest.fixture(scope="module")
def grouped(catalog):
    return catalog.model("llama-3.1-8b").kinds[0].mixer


@pytest.fixture(scope="module")
def latent(catalog):
    return next(kind.mixer for kind in catalog.model("deepseek-v3").kinds)


def test_long_caches_run_near_the_bandwidth(chip, grouped):
    longer = attention_decode(chip, grouped, 128, 16384) - attention_decode(chip, grouped, 128, 8192)
    read = 128 * 8192 * 2 * 8 * 128 * 2
    assert 0.75 < read / longer / chip.memory_bandwidth < 0.95


def test_a_small_batch_pays_the_floor(chip, grouped):
    constants = decode_kernel(chip, "bf16")
    assert constants.overhead < attention_decode(chip, grouped, 1, 128) < 1.5 * constants.overhead


def test_tensor_parallel_ranks_never_read_less_than_one_head(chip, grouped):
    eight, sixteen = (attention_decode(chip, grouped, 64, 8192, tp=tp) for tp in (8, 16))
    assert sixteen == pytest.approx(eight, rel=0.1) and eight < attention_decode(chip, grouped, 64, 8192) / 5


def test_a_window_bounds_what_is_read(chip, grouped):
    short = attention_decode(chip, grouped, 64, 1024)
    assert attention_decode(chip, replace(grouped, window=1024), 64, 65536) == short
    assert attention_decode(chip, replace(grouped, window=1024), 64, 512) < short


def test_heads_that_share_a_cache_cost_little_but_something(chip, grouped):
    few, many = (attention_decode(chip, replace(grouped, heads=heads), 128, 8192) for heads in (16, 256))
    assert 1.1 < many / few < 1.5


def test_a_narrow_cache_is_read_faster(chip, grouped):
    wide, narrow = (attention_decode(chip, grouped, 128, 8192, kv_dtype=kv) for kv in ("bf16", "fp8"))
    assert 1.5 < wide / narrow < 2.1


def test_a_kernel_that_does_not_split_waits_for_one_unit(catalog, grouped):
    chip = catalog.accelerator("l40s")
    one, eight = (attention_decode(chip, grouped, batch, 16384, kv_dtype="fp8") for batch in (1, 8))
    assert 1.0 < eight / one < 2.0  # eight times the bytes
    assert one * 1e6 == pytest.approx(270, rel=0.2)  # measured


def test_columns_give_what_numbers_give(chip, grouped):
    batch, context = np.array([1, 32, 128]), np.array([16384, 4096, 512])
    rows = attention_decode(chip, grouped, batch, context, software="vllm")
    assert rows.tolist() == [attention_decode(chip, grouped, int(b), int(c), software="vllm")
                             for b, c in zip(batch, context, strict=True)]


def test_latent_attention_reads_one_latent_for_all_heads(chip, latent):
    assert (latent.kv_lora_rank, latent.qk_rope_head_dim) == (512, 64)
    few = latent_decode(chip, decode_kernel(chip, "bf16"), 128, 8192, 16, 512, 64, "bf16")
    read = 128 * 8192 * 576 * 2 / chip.memory_bandwidth
    assert read < few < 1.3 * read  # 16 heads: the cache binds
    assert attention_decode(chip, latent, 128, 8192) > 1.1 * few  # 128 heads: the products bind
    assert attention_decode(chip, latent, 128, 8192, tp=8) == few  # every rank reads the whole cache


def test_keys_of_constants(catalog, chip):
    assert plain_dtype(variant("bf16", "fp8", "vllm")) == "bf16"
    assert kernel_of(chip, "attention_decode", "bf16", software="vllm") is chip.kernels["attention_decode"]["bf16@vllm"]
    assert kernel_of(chip, "attention_decode", "bf16", software="none") is chip.kernels["attention_decode"]["bf16"]
    weights_alone = kernel_of(catalog.accelerator("h200-sxm"), "gemm", "int4")
    assert weights_alone.borrowed == "a100-sxm-80gb"
    borrowed = catalog.accelerator("gb200")
    assert decode_kernel(borrowed, "fp8", "vllm").borrowed == "b200-sxm"
    assert decode_kernel(catalog.accelerator("h200-sxm"), "bf16", "vllm").borrowed == ""  # its own, of another engine


def test_what_is_not_known_is_said(catalog, chip, grouped):
    with pytest.raises(Unsupported, match="a KV cache in q3"):
        attention_decode(chip, grouped, 1, 1, kv_dtype="q3")
    bare = replace(chip, kernels={})
    with pytest.raises(Unsupported, match="h100-sxm has no constants for attention_decode"):
        attention_decode(bare, grouped, 1, 1)
