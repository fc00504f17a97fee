"""Model files: parameter counts against the published ones, and one sentence for every way to get a file wrong."""

import copy
import re
from pathlib import Path

import pytest
import yaml

from perfplan.catalog.models import model_from_yaml
from perfplan.catalog.parameters import parameters
from perfplan.catalog.specs import Attention, LinearAttention, Mamba, Mlp, Model, Moe
from perfplan.errors import BadQuantity, CatalogError, Indivisible, MissingField, OutOfRange, PerfplanError, UnknownName

FILES = sorted((Path(__file__).parents[2] / "catalogs" / "models").glob("*.yaml"))


def load(name: str) -> Model:
    path = next(file for file in FILES if file.stem == name)
    return model_from_yaml(yaml.safe_load(path.read_text()), str(path))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_count_is_within_one_percent_or_a_note_says_why(path):
    model = model_from_yaml(yaml.safe_load(path.read_text()), str(path))
    assert model.id == path.stem
    assert model.sources["dimensions"]
    if model.published_params is None:
        return
    error = parameters(model).total / model.published_params - 1
    reason = [note for note in model.notes if note.startswith("count differs from the published total by")]
    assert bool(reason) == (abs(error) > 0.01)
    if reason:
        stated = re.search(r"by ([+-][0-9.]+)%: \w", reason[0])
        assert stated is not None
        assert float(stated[1]) == pytest.approx(100 * error, abs=0.1)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_active_parameters_are_the_published_ones_with_or_without_the_vocabulary(path):
    model = model_from_yaml(yaml.safe_load(path.read_text()), str(path))
    if model.published_active is None:
        return
    count = parameters(model)
    vocabulary = count.by_part["embedding"] + count.by_part.get("head", 0)
    rounding = max(0.5e9, 0.03 * model.published_active)  # as in "A3B"
    assert count.active - vocabulary - rounding <= model.published_active <= count.active + rounding


def test_every_part_of_the_count_adds_up():
    for path in FILES:
        model = model_from_yaml(yaml.safe_load(path.read_text()), str(path))
        count = parameters(model)
        assert sum(count.by_part.values()) == count.total >= count.active > 0
        inside = sum(count.layers[index] for index in model.layers)
        outside = sum(count.by_part.get(part, 0) for part in ("embedding", "head", "position"))
        assert 0 < count.total - inside - outside <= 2 * model.hidden


def test_there_are_at_least_two_hundred_models():
    assert len(FILES) >= 200


@pytest.mark.parametrize(("name", "total"), [
    ("llama-3-8b", 8_030_261_248), ("llama-3.1-405b", 405_853_388_800), ("mixtral-8x7b", 46_702_792_704),
    ("qwen2.5-7b", 7_615_616_512), ("gpt2-124m", 124_439_808), ("gemma-2-2b", 2_614_341_888),
    ("qwen3-8b", 8_190_735_360), ("opt-1.3b", 1_315_753_984)])
def test_exact_counts_of_released_weights(name, total):
    assert parameters(load(name)).total == total


def test_deepseek_v3_in_matrices():
    count = parameters(load("deepseek-v3"))
    assert count.matrices == 671_025_397_760
    assert count.active == pytest.approx(37.55e9, rel=1e-3)
    assert load("deepseek-v3").mtp_layers == 1


def test_kinds_of_layer():
    model = load("deepseek-v3")
    assert [type(model.kinds[index].ffn) for index in model.layers] == [Mlp] * 3 + [Moe] * 58
    gemma = load("gemma-3-1b")
    windows = [gemma.kinds[index].mixer.window for index in gemma.layers]
    assert windows == [512, 512, 512, 512, 512, 0] * 4 + [512, 512]
    nemotron = load("nemotron-3-nano-30b-a3b")
    mixers = [type(nemotron.kinds[index].mixer) for index in nemotron.layers]
    assert (mixers.count(Mamba), mixers.count(Attention), mixers.count(type(None))) == (23, 6, 23)
    qwen = load("qwen3-next-80b-a3b")
    assert [type(qwen.kinds[index].mixer) for index in qwen.layers[:4]] == [LinearAttention] * 3 + [Attention]
    maverick = load("llama-4-maverick")
    assert [isinstance(maverick.kinds[index].ffn, Moe) for index in maverick.layers[:4]] == [False, True, False, True]
    assert load("nemotron-3-super-120b-a12b").kinds[1].ffn.latent == 1024
    assert load("palm-540b").kinds[0].parallel
    assert load("deepseek-v3.2").kinds[0].mixer.index_topk == 2048


GOOD = {
    "id": "tiny", "name": "Tiny", "hidden": 64, "vocab": 100, "tied": False, "source": "a test", "confidence": "read",
    "parts": {"attention": {"type": "attention", "heads": 4, "kv_heads": 2, "head_dim": 16, "v_head_dim": 16},
              "mlp": {"type": "mlp", "width": 128, "gated": True},
              "moe": {"type": "moe", "experts": 8, "top_k": 2, "width": 32, "gated": True}},
    "kinds": {"dense": {"mixer": "attention", "ffn": "mlp"}, "moe": {"mixer": "attention", "ffn": "moe"}},
    "layers": [{"kind": "dense", "count": 1}, {"repeat": 2, "of": [{"kind": "moe"}, {"kind": "dense"}]}]}


def test_the_good_file_is_good():
    assert model_from_yaml(GOOD, "tiny.yaml").layers == (0, 1, 0, 1, 0)


BAD = [
    (("hidden", "4096 GB"), BadQuantity, "whole number"), (("hidden", None), MissingField, "hidden"),
    (("hidden", -1), OutOfRange, "hidden"), (("hidden", 10**12), OutOfRange, "hidden"),
    (("hidden", 64.5), BadQuantity, "64.5"),
    (("tied", "on"), BadQuantity, "true or false"), (("tied", 1), BadQuantity, "tied"),
    (("norm", "batch"), UnknownName, "norm"), (("positional", "xpos"), UnknownName, "positional"),
    (("confidence", "sure"), UnknownName, "confidence"), (("source", ""), CatalogError, "source"),
    (("hiden", 64), UnknownName, "did you mean hidden"), (("id", "Tiny Model"), CatalogError, "id"),
    (("parts", []), CatalogError, "mapping"), (("parts.mlp", 128), CatalogError, "type belongs"),
    (("parts.mlp.type", "mpl"), UnknownName, "mlp"), (("parts.mlp.gated", None), BadQuantity, "gated"),
    (("parts.attention.kv_heads", 3), Indivisible, "3 key/value heads"),
    (("parts.attention.kv_heads", 0), OutOfRange, ""),
    (("parts.attention.kv_lora_rank", 8), OutOfRange, "qk_nope_head_dim"),
    (("parts.attention.chunked", True), MissingField, "chunk"), (("parts.attention.windw", 8), UnknownName, "window"),
    (("parts.moe.groups", 3), Indivisible, "3 groups do not divide 8 experts"),
    (("parts.moe.group_limit", 2), OutOfRange, "2 of 1 groups"),
    (("parts.moe.top_k", 9), OutOfRange, "9 of 8 experts"), (("parts.moe.top_k", True), BadQuantity, "top_k"),
    (("kinds.dense.mixer", "attn"), UnknownName, "attn"), (("kinds.dense.mixer", "mlp"), CatalogError, "as mixer"),
    (("kinds.dense", {}), MissingField, "neither"), (("kinds.dense", 3), CatalogError, "mixer"),
    (("kinds.spare", {"ffn": "mlp"}), CatalogError, "spare"), (("layers", []), CatalogError, "layers"),
    (("layers", 3), CatalogError, "layers"), (("layers", [3]), CatalogError, "run"),
    (("layers", [{"kind": "dens", "count": 2}]), UnknownName, "did you mean dense"),
    (("layers", [{"pattern": "XY"}]), UnknownName, "'X'"),
    (("layers", [{"kind": "dense", "count": 0}, {"kind": "moe"}]), OutOfRange, "count"),
    (("layers", [{"kind": "dense", "count": 10**7}, {"kind": "moe"}]), OutOfRange, "10000"),
    (("layers", [{"repeat": 10**7, "of": [{"kind": "moe"}, {"kind": "dense"}]}]), OutOfRange, "10000"),
    (("published", {"total": "8B"}), BadQuantity, "parameters"), (("published", {"all": 3}), UnknownName, "all"),
    (("notes", "text"), CatalogError, "notes")]


@pytest.mark.parametrize(("change", "error", "word"), BAD, ids=[f"{change[0]}={change[1]!r:.20}" for change, *_ in BAD])
def test_bad_files_give_one_sentence(change, error, word):
    data = copy.deepcopy(GOOD)
    *folders, key = change[0].split(".")
    place = data
    for folder in folders:
        place = place[folder]
    place[key] = change[1]
    with pytest.raises(error) as caught:
        model_from_yaml(data, "tiny.yaml")
    message = str(caught.value)
    assert "tiny.yaml" in message and word in message and "\n" not in message
    assert isinstance(caught.value, PerfplanError) and caught.value.exit_code == 2


@pytest.mark.parametrize("data", [None, [], "text", 3])
def test_what_is_no_mapping_is_no_model(data):
    with pytest.raises(CatalogError):
        model_from_yaml(data, "tiny.yaml")
