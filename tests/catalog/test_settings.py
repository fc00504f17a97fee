"""`--set`: what it changes, what it refuses."""

import pytest

from perfplan.catalog import Catalog
from perfplan.errors import BadQuantity, CatalogError, PerfplanError, UnknownName


def test_overrides_reach_the_specs():
    catalog = Catalog(settings=("accelerator.memory=96GiB", "cluster.levels.0.bandwidth=400GB/s",
                                "cluster.levels.infiniband.latency=7us", "accelerator.price_per_hour=2.5$",
                                "accelerator.peak.mxfp4=1 PFLOP/s", "accelerator.kernels.gemm.bf16.compute=0.5",
                                "cluster.levels.0.efficiency={2: 0.5, 8: 0.9}"))
    cluster = catalog.cluster("dgx-h100")
    chip = cluster.accelerator
    assert chip.memory == 96 * 2**30
    assert chip.price_per_hour == 2.5
    assert chip.peak["mxfp4"] == 1e15
    assert chip.kernels["gemm"]["bf16"].compute == 0.5
    assert cluster.levels[0].bandwidth == 4e11
    assert cluster.levels[0].efficiency == ((2, 0.5), (8, 0.9))
    assert cluster.levels[1].latency == pytest.approx(7e-6)
    assert chip.sources["memory"] == "set by the user"
    assert any("memory=96GiB" in note for note in chip.notes)
    assert catalog.unused_settings() == ()


def test_a_cluster_can_be_given_another_accelerator():
    cluster = Catalog(settings=("cluster.accelerator=h200-sxm",)).cluster("dgx-h100")
    assert cluster.accelerator.id == "h200-sxm"


def test_settings_do_not_leak_into_the_relative_that_lends_constants():
    plain = Catalog().accelerator("gb200").kernels["gemm"]["bf16"]
    changed = Catalog(settings=("accelerator.memory=96GiB",)).accelerator("gb200").kernels["gemm"]["bf16"]
    assert plain == changed
    assert plain.borrowed == "b200-sxm"


def test_unused_settings_are_told():
    catalog = Catalog(settings=("recipe.weight=3", "accelerator.memory=96GiB"))
    catalog.accelerator("h100-sxm")
    assert catalog.unused_settings() == ("recipe.weight=3",)
    assert catalog.recipe("bf16").weight == 3
    assert catalog.unused_settings() == ()


@pytest.mark.parametrize(("setting", "error", "hint"), [
    ("accelerator.memory", CatalogError, "kind.field=value"),
    ("accelerator=3", CatalogError, "kind.field=value"),
    ("accelerator.memory=", CatalogError, "kind.field=value"),
    ("accelerator..memory=3", CatalogError, "kind.field=value"),
    ("accelertor.memory=96GiB", UnknownName, "did you mean accelerator"),
    ("accelerator.memry=96GiB", UnknownName, "did you mean memory"),
    ("accelerator.memory=96", BadQuantity, "no unit"),
    ("accelerator.memory=96 GB/s", BadQuantity, "not in B"),
    ("accelerator.memory=nan GB", BadQuantity, "finite"),
    ("accelerator.memory.size=3", UnknownName, "no fields of its own"),
    ("cluster.levels.7.bandwidth=1 GB/s", UnknownName, "there are 0, 1"),
    ("cluster.levels.0.bandwith=1 GB/s", UnknownName, "did you mean bandwidth"),
    ("cluster.levels.1.rails=1", CatalogError, "information and changes no price"),
    ("cluster.levels.0.efficiency=2", CatalogError, "efficiency"),
    ("accelerator.kernels.gem.bf16.compute=0.5", UnknownName, "did you mean gemm"),
    ("accelerator.kernels.gemm.bf16.compute=2", BadQuantity, "absurd"),
    ("accelerator.name=&a x", CatalogError, "anchors"),
])
def test_bad_settings(setting, error, hint):
    with pytest.raises(PerfplanError) as caught:
        Catalog(settings=(setting,)).cluster("dgx-h100")
    assert isinstance(caught.value, error), caught.value
    assert hint in str(caught.value)
    assert "\n" not in str(caught.value)
