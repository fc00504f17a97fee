"""Ids that files of measurements use: each names an entry, so that no row is lost for its name."""

import pytest

from perfplan.catalog import Catalog

MODELS = """
bloom-176b codellama-34b deepseek-v3 deepseek-v4-flash falcon-180b gemma-3-12b gemma-4-26b-a4b gemma-4-31b
gemma-4-e2b gemma-4-e4b glm-5 gpt-j-6b gpt-oss-120b gpt-oss-20b gpt2-levanter-1.4b gpt2-levanter-13b
gpt2-levanter-20b gpt2-levanter-345m gpt2-levanter-6.7b gpt2-levanter-65b gpt2-levanter-750m gpt3-175b
gpt3-175b-megascale gpt3-20b gpt3-5b internlm-20b kimi-k2 kimi-k2.5 llama-13b llama-2-13b llama-2-70b llama-2-7b
llama-3-70b llama-3-8b llama-3.1-405b llama-3.1-70b llama-3.1-8b llama-3.3-70b llama-33b llama-4-maverick
llama-4-scout llama-7b llama-like-70b llama-like-7b maxtext-1024b maxtext-128b maxtext-16b maxtext-22b maxtext-256b
maxtext-32b maxtext-512b maxtext-52b maxtext-64b megatron-1.7b megatron-145b megatron-18b megatron-1t
megatron-2020-1.2b megatron-2020-2.5b megatron-2020-4.2b megatron-2020-8.3b megatron-2024-1.7b megatron-2024-119b
megatron-2024-16b megatron-2024-177b megatron-2024-314b megatron-2024-32b megatron-2024-462b megatron-2024-7.1b
megatron-2024-70b megatron-22b megatron-3.6b megatron-310b megatron-39b megatron-530b megatron-7.5b megatron-76b
minimax-m2.5 mistral-7b mixtral-8x22b mixtral-8x7b moonlight-16b-a3b mpt-125m mpt-13b mpt-1b mpt-30b mpt-350m mpt-3b
mpt-70b mpt-760m mpt-7b nemotron-22b nemotron-3-8b nemotron-3-nano-30b-a3b nemotron-3-super-120b-a12b
nemotron-3-ultra-550b-a55b nemotron-3.5-lightning-30b-a3b nemotron-4-340b openllama-3b palm-540b qwen1.5-72b
qwen3-235b-a22b qwen3-30b-a3b qwen3-32b qwen3.5-397b-a17b tinyllama-1.1b vtrain-h12288-l96 vtrain-h3072-l30
vtrain-h6144-l40 vtrain-h8192-l48 yi-34b
"""
ACCELERATORS = """
a100-80gb a100-pcie a100-pcie-80gb a100-sxm a100-sxm-40gb a100-sxm-80gb a40 b200-sxm b300-sxm gaudi2 gaudi3 gb10
gb200 gb300 gh200-144gb gh200-96gb gtx-1080-ti h100 h100-500w h100-nvl h100-pcie h100-sxm h100-sxm-96gb-hbm2e
h20-sxm h200 h200-nvl h200-sxm h800-sxm jetson-agx-orin-64gb l40 l40s m1 m1-max m2-ultra m3-max m40 mi100 mi210
mi250x-gcd mi300x mi325x mi350x mi355x p100 rtx-3070 rtx-3080-10gb rtx-3080-ti rtx-3090 rtx-3090-ti rtx-4000-ada
rtx-4070-ti rtx-4080 rtx-4090 rtx-5000-ada rtx-6000-ada rtx-a5000 rtx-a6000 rtx-pro-6000 rx-6900-xt t4
titan-x-maxwell titan-x-pascal tpu-v3 tpu-v4 tpu-v5e tpu-v5p tpu-v6e tpu-v7 tpu-v7-core v100 v100-sxm v100-sxm-32gb
xeon-6980p xeon-8592plus xeon-phi-7250
"""


@pytest.fixture(scope="module")
def catalog():
    return Catalog()


def test_models(catalog):
    assert all(catalog.model(name).layers for name in MODELS.split())


def test_accelerators(catalog):
    chips = [catalog.accelerator(name) for name in ACCELERATORS.split()]
    assert all(chip.peak and chip.memory > 0 and chip.memory_bandwidth > 0 for chip in chips)


@pytest.mark.parametrize(("name", "meant"), [
    ("h100-sxm-96gb-hbm2e-500w", "h100-sxm-96gb-hbm2e"), ("a100-sxm", "a100-sxm-80gb"), ("v100", "v100-sxm-16gb")])
def test_a_less_specific_name_is_told(catalog, name, meant):
    chip = catalog.accelerator(name)
    assert chip.id == meant and f"{name} is read as {meant}" in chip.notes
