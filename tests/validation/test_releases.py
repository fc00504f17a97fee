"""Factors of software releases: from residuals to factors, what they are worth left out, which chip they are for."""

import numpy as np
import pytest
import yaml

from perfplan.api import estimate_train
from perfplan.catalog import Catalog
from perfplan.catalog.specs import Release
from perfplan.errors import UnknownName
from perfplan.validation.releases import factors, left_out, release_of
from perfplan.validation.rows import read_rows
from perfplan.validation.steps import steps_of
from perfplan.validation.training import dev_measurements

JOB = {"cluster": "dgx-h100", "global_batch": 64, "seq_len": 4096, "layout": "tp2 sp1 pp2 vpp2 dp4 zero1"}
HALF = """
id: megatron-core
releases:
  "99.01":
    h100-sxm/dense: {factor: 0.5, rows: 7, source: made up}
"""


@pytest.fixture(scope="module")
def steps():
    names = ("NeMo container 26.04", "MLPerf Training v5.1")
    rows = [row for row in read_rows(dev_measurements()) if row.epoch in names and row.method == "pretrain"]
    return steps_of(rows, Catalog())


@pytest.fixture
def halved(tmp_path):
    folder = tmp_path / "frameworks"
    folder.mkdir()
    data, _ = Catalog().raw("framework", "megatron-core")
    made = data | {"releases": yaml.safe_load(HALF)["releases"]}
    (folder / "megatron-core.yaml").write_text(yaml.safe_dump(made))
    return Catalog([tmp_path])


def test_epochs_name_releases():
    assert release_of("NeMo container 26.04.01") == "26.04.01"
    assert release_of("MicRO'24") == release_of("") == ""


def test_a_common_excess_is_the_factor_drawn_towards_one(steps):
    slow = np.array([step.time / 1.2 for step in steps])
    found = factors(steps, slow, "here")
    assert found
    for one in found.values():
        assert one == Release(pytest.approx(1.2 ** (one.rows / (one.rows + 2)), rel=1e-3), one.rows, "here")


def test_left_out_a_common_excess_of_a_group_helps(steps):
    rows, plain, corrected = left_out(steps, np.array([step.time / 1.2 for step in steps]))
    assert rows > 0 and corrected < plain


def test_a_named_release_scales_every_part_and_says_so(halved):
    plain = estimate_train("llama-3-8b", catalog=halved, **JOB)
    fast = estimate_train("llama-3-8b", catalog=halved, framework="megatron-core-99.01", **JOB)
    assert float(fast.step_time) == pytest.approx(0.5 * float(plain.step_time))
    assert sum(fast.breakdown.values()) == pytest.approx(float(fast.step_time))
    assert any("x 0.500 (7 measured rows; made up)" in word for word in fast.caveats)
    assert not any("release" in word for word in plain.caveats)


def test_a_release_without_a_factor_for_the_chip_changes_nothing(halved):
    job = JOB | {"cluster": "dgx-b200"}
    plain, named = (estimate_train("llama-3-8b", catalog=halved, framework=f"megatron-core{end}", **job)
                    for end in ("", "-99.01"))  # fmt: skip
    assert named.step_time == plain.step_time
    assert any("no factor is known" in word for word in named.caveats)


def test_an_unknown_release_is_an_error_with_the_known_ones(halved):
    with pytest.raises(UnknownName, match="no release '99.02'.*99.01"):
        halved.framework("megatron-core-99.02")
