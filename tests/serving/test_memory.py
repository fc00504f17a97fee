"""What fits: exact figures of user stories, layouts of odd machines, and the order of the cache rules."""

import pytest

from perfplan.catalog import Catalog
from perfplan.errors import BadLayout, Indivisible, Infeasible, OutOfRange, Unsupported
from perfplan.formulas.serving import cached_pages
from perfplan.serving.deploy import room, serving_job
from perfplan.serving.layout import ServingLayout, check, legal
from perfplan.serving.memory import cache_per_token, fit, per_token, smallest, weights

CATALOG = Catalog()


def job(model="deepseek-v3", cluster="hgx-h200", **more):
    return serving_job(model, cluster, CATALOG, **{"engine": "vllm", **more})


def test_deepseek_keeps_70272_bytes_of_kv_per_token_on_each_tp8_rank():
    assert per_token(job(), ServingLayout(tp=8, ep=8)) == 70_272
    assert per_token(job(), ServingLayout(tp=8, dcp=8)) == 70_272 / 8
    assert per_token(job(), ServingLayout(adp=8)) == 70_272, "a token has its cache on one attention rank"


def test_qwen_keeps_57344_bytes_per_token():  # U2, vllm-project/vllm#22291
    qwen = job("qwen2.5-7b", "dgx-a100")
    assert per_token(qwen, ServingLayout()) == 57_344
    assert round(3072 * per_token(qwen, ServingLayout()) / 2**30, 3) == 0.164


def test_blocks_and_concurrency_of_a_3090():  # U1, vllm-project/vllm#10517
    each = per_token(job("llama-3.1-8b", "dgx-a100"), ServingLayout())
    assert each == 131_072
    assert cached_pages(3.81 * 2**30, 16, each) == pytest.approx(1952, abs=5)
    assert cached_pages(2.89 * 2**30, 16, each) == pytest.approx(1478, abs=5)


def test_weights_of_llama_70b():  # U3, llm-d-benchmark PR#381
    held = weights(job("llama-3.1-70b", "dgx-h100"), ServingLayout())
    assert held == 70_553_706_496 * 2
    assert round(held / 2**30, 4) == 131.4165


def test_deepseek_does_not_fit_eight_80_gb_cards():  # U4, lmdeploy#2960
    found = room(job(cluster="dgx-h100"), 8, 4096)
    assert not found.fits
    assert found.least > 8
    assert all(one.weights * 8 > 670e9 for one in found.layouts if one.layout.dp == 1)


def test_llama_405b_has_79392_tokens_left():  # row 33, vllm#6746
    each = per_token(job("llama-3.1-405b", "dgx-h100", weights="fp8"), ServingLayout(tp=8))
    assert each * 8 == 516_096
    assert round(79_392 * each / 2**30, 2) == 4.77


def test_key_value_heads_are_whole():
    qwen = job("qwen3-235b-a22b")
    kind = qwen.model.kinds[0]
    assert cache_per_token(qwen, kind, ServingLayout(tp=4)) == cache_per_token(qwen, kind, ServingLayout(tp=8))


def test_odd_machines_have_layouts():
    assert {str(one) for one in legal(CATALOG.model("llama-3.1-70b"), 7)} == {"tp1 dp7", "tp1 pp7"}
    with pytest.raises(Indivisible, match="does not divide the attention heads"):
        check(CATALOG.model("llama-3.1-70b"), ServingLayout(tp=6))
    assert all("tp14" not in str(one) for one in legal(CATALOG.model("deepseek-v3"), 14))


def test_the_fewest_accelerators():
    assert smallest(job("llama-3.1-8b", "dgx-h100"), 8192) == 1
    assert smallest(job("llama-3.1-70b", "dgx-h100"), 8192) == 2
    assert smallest(job("llama-3.1-405b", "dgx-h100"), 8192, most=4) is None


def test_windows_and_states_do_not_grow():
    oss = job("gpt-oss-120b", "dgx-h100")
    short, long = (fit(oss, ServingLayout(), n).sequence for n in (128, 12800))
    assert long < 60 * short, "half of the layers cache 128 tokens only"
    hybrid = job("nemotron-h-8b", "dgx-h100")
    assert fit(hybrid, ServingLayout(), 4096).sequence > 4096 * per_token(hybrid, ServingLayout())


def test_a_longer_context_or_wider_cache_never_holds_more():
    llama = job("llama-3.1-70b", "dgx-h100")
    users = [fit(llama, ServingLayout(tp=4), n).users for n in (1024, 4096, 16384, 65536)]
    assert users == sorted(users, reverse=True)
    narrow = job("llama-3.1-70b", "dgx-h100", kv="fp8")
    assert fit(narrow, ServingLayout(tp=4), 16384).users >= users[2]


@pytest.mark.parametrize(("text", "error"), [("tp0", BadLayout), ("xx4", BadLayout), ("tp4 tp2", BadLayout)])
def test_bad_layouts(text, error):
    with pytest.raises(error):
        ServingLayout.parse(text)


def test_bad_requests():
    with pytest.raises(OutOfRange, match="context"):
        room(job(), 8, 10**8)
    with pytest.raises(Unsupported):
        job(weights="int3")
    with pytest.raises(Unsupported):
        job("llama-3.1-8b", "dgx-a100", weights="nvfp4")
    assert issubclass(Infeasible, Exception)
