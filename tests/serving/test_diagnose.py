"""Diagnoses: the cases of the issue threads that the causes come from."""

import pytest

from perfplan.api import diagnose_serve
from perfplan.catalog import Catalog
from perfplan.errors import BadQuantity, Indivisible, OutOfRange
from perfplan.serving.deploy import serving_job
from perfplan.serving.diagnose import kv_mistake, rate_measured
from perfplan.serving.estimate import steady
from perfplan.serving.layout import ServingLayout

CATALOG = Catalog()
PCIE = {"cluster": "h100-pcie", "weights": "fp8", "engine": "trtllm-0.17", "isl": 128, "osl": 128}


def diagnosed(model="llama-3.1-8b", **known):
    return diagnose_serve(model, catalog=CATALOG, **{"measured": "7100 tok/s", **PCIE, **known})


def names(one):
    return [cause.name for cause in one.causes]


def test_a_number_of_the_sxm_card_hoped_for_on_a_pcie_card():
    """TensorRT-LLM#6294: 7,100 measured, 27,688 published."""
    found = diagnosed(expected="27688 tok/s")
    assert names(found)[0] == "number of another form of the chip" and "h100-sxm" in found.causes[0].words
    assert names(found)[1:] == ["too few requests in flight"], "faster cards explain no number below the estimate"
    assert found.measured < found.estimate < found.bound


def test_starved_requests_follow_from_littles_law():
    """What the estimate gives at 20 in flight is diagnosed as 20 in flight."""
    job = serving_job("llama-3.1-8b", "h100-pcie", CATALOG, engine=PCIE["engine"], weights="fp8")
    given = float(steady(job, ServingLayout(), 128, 128, 20.0).tokens_per_s)
    found = diagnosed(measured=f"{given:.3f} tok/s", concurrency=500)
    assert found.in_flight == pytest.approx(20, rel=0.01)
    assert names(found)[0] == "too few requests in flight" and "of 500 offered" in found.causes[0].words


def test_as_expected_names_what_binds():
    found = diagnosed(concurrency=64, measured="6500 tok/s")
    assert found.as_expected and found.steady.binding


def test_a_batch_that_the_cache_caps():
    found = diagnosed(
        "llama-3.1-70b",
        cluster="dgx-h100",
        weights="bf16",
        layout="tp4",
        isl=4000,
        osl=500,
        concurrency=2000,
        measured="2000 tok/s",
    )
    assert "batch capped by the cache" in names(found)
    capped = diagnosed("llama-3.1-70b", cluster="dgx-h100", weights="bf16", layout="tp4", isl=4000, osl=500,
                       concurrency=2000, measured=f"{found.estimate:.0f} tok/s")
    assert capped.as_expected and capped.steady.binding == "cache memory"
    assert names(capped) == ["batch capped by the cache"], "it holds whatever was measured"


def test_prompts_counted_too_and_one_accelerator():
    job = {"cluster": "dgx-h100", "layout": "tp4", "concurrency": 64, "isl": 1000, "osl": 500, "weights": "bf16"}
    right = diagnosed("llama-3.1-70b", **job, measured="1000 tok/s").estimate
    both = diagnosed("llama-3.1-70b", **job, measured=f"{3 * right:.0f} tok/s")
    assert names(both)[0] == "prompt tokens counted too"
    one = diagnosed("llama-3.1-70b", **job, measured=f"{right / 4:.0f} tok/s")
    assert "number of one accelerator" in names(one)[:2]


def test_a_sparse_peak():
    found = diagnosed(peak="3026 TFLOP/s")
    assert names(found)[0] == "sparse peak taken for dense"
    assert "sparse peak taken for dense" not in names(diagnosed(peak="1513 TFLOP/s"))


def test_decode_bound_by_the_host():
    found = diagnosed(
        "qwen3-0.6b", cluster="dgx-a100", weights="bf16", engine="trtllm-0.9", concurrency=1, measured="100 tok/s"
    )
    assert names(found)[0] == "host-bound decode", "one request cannot be too few of one offered"
    assert "times its usual time would give 100 tok/s" in found.causes[0].words
    fine = diagnosed("llama-3.1-70b", cluster="dgx-h100", weights="bf16", layout="tp4", measured="100 tok/s")
    assert "host-bound decode" not in names(fine)


def test_the_number_of_a_pcie_card_taken_for_the_sxm_card():
    job = serving_job("llama-3.1-8b", "h100-pcie", CATALOG, engine="trtllm", weights="fp8")
    given = float(steady(job, ServingLayout(), 1000, 1000, 64.0).tokens_per_s)
    found = diagnosed(cluster="dgx-h100", layout="tp1", isl=1000, osl=1000, concurrency=64,
                      measured=f"{given:.1f} tok/s")
    assert names(found)[0] == "another form of the chip" and found.causes[0].words.startswith("h100-pcie")


def test_requests_in_flight_from_what_a_user_saw():
    """aiconfigurator#1396: 192.44 tokens/s/GPU at 44.59 per user leave 35 in flight of 384."""
    found = diagnosed("deepseek-v3", cluster="dgx-b200", layout="tp8 ep8", weights="nvfp4", isl=8192, osl=1024,
                      concurrency=384, measured="192.44 tok/s/gpu", per_user="44.59 tok/s")
    assert round(found.in_flight) == 35
    assert names(found)[0] == "too few requests in flight" and "35 requests were in flight" in found.causes[0].words


def test_all_reduces_over_pcie():
    found = diagnosed("llama-3.1-70b", cluster="rtx-4090", weights="awq", engine="vllm", layout="tp4", isl=500, osl=200,
                      concurrency=16, measured="150 tok/s")
    cause = next(cause for cause in found.causes if cause.name == "all-reduces over a slow link")
    assert cause.tokens_per_s > found.estimate and "over pcie" in cause.words
    assert not any("rtx-3070" in cause.words for cause in found.causes), "another card, not another form"


@pytest.mark.parametrize(
    "given, words",
    [
        (57344.0, "is right"),
        (401408.0, r"attention heads taken for key-value heads \(x7\)"),
        (1.53 * 2**20, "attention heads .* and bits of an 8-bit"),
        (458752.0, "bits taken for bytes"),
        (28672.0, "keys or values alone"),
        (99999.0, "1.74 times the right 57344 B of qwen2.5-7b"),
    ],
)
def test_wrong_arithmetic_of_the_cache(given, words):
    """vllm#22291: 1.53 MB per token for Qwen2.5-7B, where 57,344 B are right."""
    import re

    job = serving_job("qwen2.5-7b", "a100-sxm-80gb", CATALOG, engine="vllm")
    assert re.search(words, kv_mistake(job, ServingLayout(), given))
    assert "wrong cache per token" in names(diagnosed("qwen2.5-7b", weights="bf16", kv_per_token=f"{given} B"))


def test_units_of_a_measured_rate():
    assert rate_measured("900 tok/s/gpu", 8, None) == 7200
    with pytest.raises(OutOfRange, match="concurrency"):
        rate_measured("30 tok/s/user", 1, None)
    with pytest.raises(BadQuantity):
        rate_measured("7100 W", 1, None)
    with pytest.raises(BadQuantity, match="more than 0"):
        rate_measured("0 tok/s", 1, None)


@pytest.mark.parametrize(
    "known, error, words",
    [
        ({"isl": 0}, OutOfRange, "at least 1"),
        ({"layout": "tp3"}, Indivisible, "tp=3"),
        ({"concurrency": 0}, OutOfRange, "at least 1"),
        ({"isl": 10**7}, OutOfRange, "context"),
    ],
)
def test_bad_input(known, error, words):
    with pytest.raises(error, match=words):
        diagnosed(**known)
