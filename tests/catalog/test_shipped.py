"""The shipped catalog: complete, sourced, physically sane, and the same as its generated schemas."""

import re

import pytest

from perfplan.catalog import Catalog, files
from perfplan.catalog.check import check, find_kind, listing
from perfplan.catalog.editor import schema_texts, write_schemas
from perfplan.errors import ExportError, MissingField, UnknownName

CATALOG = Catalog()
CHIPS = CATALOG.ids("accelerator")
CLUSTERS = CATALOG.ids("cluster")


def test_everything_loads_and_leads_somewhere():
    faults, looked = check(CATALOG)
    assert faults == []
    assert looked > 100


def test_a_fault_is_found(tmp_path):
    (tmp_path / "clusters").mkdir()
    (tmp_path / "clusters" / "mine.yaml").write_text("name: x\n")
    (tmp_path / "aliases.yaml").write_text("cluster: {dgx-h100: mine, gone: nowhere}\n")
    faults, _ = check(Catalog([tmp_path]), ["cluster"])
    assert {fault.id for fault in faults} == {"mine", "dgx-h100", "gone"}


@pytest.mark.parametrize("kind", ["accelerator", "cluster", "model", "recipe", "framework", "library"])
def test_listing(kind):
    rows = listing(CATALOG, kind)
    assert [row["id"] for row in rows] == CATALOG.ids(kind)


def test_schemas_in_the_catalog_are_current():
    folder = files.packaged_root() / "schemas"
    assert {path.name: path.read_text() for path in folder.glob("*.json")} == schema_texts()


def test_schemas_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ExportError, match="cannot be written"):
        write_schemas(tmp_path / "file")


def test_each_file_names_its_schema():
    for kind in ("accelerator", "cluster", "library", "recipe", "framework"):
        for name in CATALOG.ids(kind):
            first = CATALOG.source(kind, name).read_text().splitlines()[0]
            assert first == f"# yaml-language-server: $schema=../schemas/{kind}.json"


def test_enough_accelerators_of_every_maker():
    chips = [CATALOG.accelerator(name) for name in CHIPS]
    assert len(chips) >= 70
    assert {chip.vendor for chip in chips} >= {"NVIDIA", "AMD", "Google", "Intel", "Apple"}


@pytest.mark.parametrize("name", CHIPS)
def test_accelerator_is_sane(name):
    chip = CATALOG.accelerator(name)
    assert 1e9 < chip.memory < 1e12
    assert 1e10 < chip.memory_bandwidth < 2e13
    for kind in ("gemm", "attention", "attention_backward", "stream"):
        for dtype in chip.peak:
            kernel = chip.kernels[kind][dtype]
            assert 0 < kernel.compute <= 1 and 0 < kernel.memory <= 1.2, (kind, dtype)
            assert 0 <= kernel.overhead < 1e-3 and kernel.source
    halves = [("bf16", "fp8"), ("fp8", "nvfp4"), ("fp32", "tf32")]
    for wide, narrow in halves:
        if wide in chip.peak and narrow in chip.peak:
            assert chip.peak[narrow] >= 0.99 * chip.peak[wide], "narrower formats are no slower"


@pytest.mark.parametrize("name", CLUSTERS)
def test_cluster_is_sane(name):
    cluster = CATALOG.cluster(name)
    for inner, outer in zip(cluster.levels, cluster.levels[1:], strict=False):
        assert outer.size % inner.size == 0 and outer.size > inner.size
        assert outer.bandwidth <= inner.bandwidth, "networks get thinner outwards"
    for level in cluster.levels:
        ranks = [n for n, _ in level.efficiency]
        assert ranks == sorted(set(ranks)) and ranks
        assert level.source
        if level.dims:
            product = 1
            for side in level.dims:
                product *= side
            assert product == level.size


@pytest.mark.parametrize("name", ["dgx-a100", "dgx-h100", "hgx-h200", "dgx-b200", "gb200-nvl72", "gb300-nvl72",
                                  "mi300x", "mi355x", "tpu-v4", "tpu-v5e", "tpu-v5p", "tpu-v6e", "tpu-v7", "frontier",
                                  "selene", "edge-wan", "h100", "mi300x-platform", "l40s", "tpu-v5p-pod"])
def test_clusters_that_the_documentation_promises(name):
    assert CATALOG.cluster(name).levels


def test_an_accelerator_stands_for_its_default_cluster():
    assert CATALOG.cluster("mi300x").id == "mi300x-platform"
    assert CATALOG.cluster("a100-sxm-40gb").accelerator.id == "a100-sxm-40gb"
    lone = CATALOG.cluster("l40")
    assert (lone.id, lone.accelerator.id) == ("l40s-node", "l40")
    with pytest.raises(MissingField, match="no default cluster"):
        CATALOG.cluster("tpu-v7-core")


def test_driver_readings_win_over_data_sheets():
    gib = 2**30
    assert CATALOG.accelerator("gb200").memory == 189471 * 2**20
    assert CATALOG.accelerator("h100-sxm").memory == 80 * gib
    assert CATALOG.accelerator("l40s").memory < 46 * gib
    assert CATALOG.accelerator("b200-sxm").memory == 180 * gib
    assert CATALOG.accelerator("mi300x").memory == 192e9


def test_unknown_formats_stay_unknown():
    assert "fp8" not in CATALOG.accelerator("tpu-v5p").peak
    assert "fp8" not in CATALOG.accelerator("a100-sxm-80gb").peak
    assert "bf16" not in CATALOG.accelerator("v100-sxm-32gb").peak


def test_borrowed_constants_are_marked():
    assert CATALOG.accelerator("mi300x").kernels["grouped_gemm"]["bf16"].borrowed == "h100-sxm"
    assert CATALOG.accelerator("h100-sxm").kernels["gemm"]["bf16"].borrowed == ""


def test_whole_steps_correct_borrowed_products():
    chip, lender = CATALOG.accelerator("h100-500w"), CATALOG.accelerator("h100-sxm")
    assert chip.lent["fp8"] == pytest.approx(chip.sustained["any"] / lender.sustained["any"])
    assert chip.lent["bf16"] == pytest.approx(chip.sustained["bf16"] / lender.sustained["bf16"])
    assert max(CATALOG.accelerator("gb300").lent.values()) == 1.0, "never more than the lender's share"
    assert "bf16" not in lender.lent and "fp8" not in CATALOG.accelerator("l40s").lent, "constants of their own"


def test_borrowed_tiles_of_experts_follow_the_ridge():
    lender, chip = CATALOG.accelerator("h100-sxm"), CATALOG.accelerator("h20-sxm")  # 295 and 37 FLOP/B
    ridges = [one.peak["bf16"] / one.memory_bandwidth for one in (chip, lender)]
    halves = [one.kernels["experts"]["bf16"].half for one in (chip, lender)]
    assert halves[0] / halves[1] == pytest.approx(ridges[0] / ridges[1])
    assert CATALOG.accelerator("h20-sxm").kernels["attention"]["bf16"].half == lender.kernels["attention"]["bf16"].half
    assert CATALOG.accelerator("h100-sxm").kernels["gemm"]["fp16"].source.startswith("as bf16")


@pytest.mark.parametrize(("name", "state"), [("bf16", 18), ("fp16", 18), ("fp32", 16), ("bf16-pure", 8)])
def test_state_bytes_per_parameter(name, state):
    recipe = CATALOG.recipe(name)
    assert recipe.weight + recipe.transposed + recipe.master + recipe.gradient + recipe.moments == state


def test_aliases_are_read_as_what_they_say():
    chip = CATALOG.accelerator("h100")
    assert chip.id == "h100-sxm"
    assert "h100 is read as h100-sxm" in chip.notes
    assert CATALOG.recipe("fp4").id == "nvfp4"


def test_find_kind():
    assert find_kind(CATALOG, "dgx-h100") == "cluster"
    assert find_kind(CATALOG, "llama-3.1-405b") == "model"
    with pytest.raises(UnknownName, match="did you mean"):
        find_kind(CATALOG, "llama-3.1-405")


def test_no_number_without_unit_in_hardware_files():
    """Only counts, fractions and tables of fractions may stand without a unit."""
    bare = re.compile(r"^\s*(memory|memory_bandwidth|bandwidth|latency|launch|tdp|l2|overhead|peer|host_bandwidth|"
                      r"price_per_hour): *[\d.e+-]+ *$", re.MULTILINE)
    for kind in ("accelerator", "cluster"):
        for name in CATALOG.ids(kind):
            text = re.sub(r"(?s)\nkernels:.*?\n(?=\S)", "\n", CATALOG.source(kind, name).read_text())
            assert not bare.search(text), name


def test_a_release_that_is_the_same_as_another_has_its_constants_and_its_own_changes():
    catalog = Catalog()
    for family in ("hopper", "ampere"):
        old, same, changed = (catalog.engine("trtllm", name, family) for name in ("0.9.0", "0.8.0", "2024-05"))
        assert (same.step, same.products, same.eager) == (old.step, old.products, old.eager)
        assert changed.step == old.step
        assert changed.context > old.context
    assert catalog.engine("trtllm", "0.16", "ampere").step == catalog.engine("trtllm", "0.17", "ampere").step


def test_a_release_the_same_as_none_is_refused(tmp_path):
    folder = tmp_path / "engines"
    folder.mkdir()
    text = (files.packaged_root() / "engines" / "lmdeploy.yaml").read_text(encoding="utf-8")
    (folder / "mine.yaml").write_text(text + 'releases:\n  "2":\n    same: "1"\n', encoding="utf-8")
    with pytest.raises(UnknownName, match="release 2 of engine mine is said to be the same as '1'"):
        Catalog([tmp_path]).engine("mine", "2.5")
