"""Workloads: published statistics come out of the curve, traces are read, and what is wrong with one is said."""

import numpy
import pytest

from perfplan.catalog import Catalog
from perfplan.catalog.workloads import fixed_workload, stretched
from perfplan.errors import BadQuantity, CatalogError, MissingField, OutOfRange, PerfplanError, UnknownName

CATALOG = Catalog()


@pytest.mark.parametrize("name", CATALOG.ids("workload"))
def test_lengths_are_a_distribution(name):
    for lengths in (CATALOG.workload(name).isl, CATALOG.workload(name).osl):
        assert lengths.weights.sum() == pytest.approx(1)
        assert (numpy.diff(lengths.values) >= 0).all() and lengths.values[0] >= 0


def test_percentiles_of_the_file_come_out():
    code = CATALOG.workload("azure-code")
    assert code.isl.percentile([0.5, 0.9, 0.99]) == pytest.approx([1469, 5188, 7436], rel=0.003)
    assert code.arrivals == pytest.approx(13.15**2) and code.rate == 2.57


def test_a_sample_has_the_moments_and_is_the_same_each_time():
    drawn = CATALOG.workload("azure-conv").sample(20_000, 3)
    assert drawn.mean(axis=0) == pytest.approx([1154.7, 211.1], rel=0.03)
    assert (drawn == CATALOG.workload("azure-conv").sample(20_000, 3)).all()


def test_requests_all_alike_and_stretched():
    alike = stretched(fixed_workload(1000, 100), 2, 0.5)
    assert (alike.isl.mean, alike.osl.mean, alike.isl.deviation) == (2000, 50, 0)


def trace(tmp_path, text):
    path = tmp_path / "trace.csv"
    path.write_text(text)
    return Catalog().workload(str(path))


def test_an_azure_trace_is_read(tmp_path):
    found = trace(
        tmp_path,
        "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.6805900,374,44\n2023-11-16 18:15:47,0,0\n"
        "2023-11-16 18:15:50.9951690,396,109\n",
    )
    assert (found.requests, found.isl.mean, found.osl.mean) == (2, 385, 76.5)
    assert found.sample(3, 0).tolist() == [[374, 44], [396, 109], [374, 44]]
    assert found.rate == pytest.approx(2 / 4.314579, rel=1e-5) and not found.notes


def test_a_trace_without_times_is_poisson(tmp_path):
    found = trace(tmp_path, "isl,osl\n" + "".join(f"{n},{n % 7 + 1}\n" for n in range(1, 2001)))
    assert found.arrivals == 1 and "Poisson" in found.notes[0]
    assert found.isl.mean == pytest.approx(1000.5) and len(found.isl.values) < 500


@pytest.mark.parametrize(
    "text, error, words",
    [
        ("", MissingField, "prompt tokens"),
        ("isl,length\n1,2\n", MissingField, "output tokens"),
        ("isl,osl\n", CatalogError, "no request"),
        ("isl,osl\n5,many\n", CatalogError, "line 2, osl is 'many'"),
        ("isl,osl\n5,-1\n", OutOfRange, "line 2, osl is -1"),
        ("isl,osl\n5,nan\n", OutOfRange, "outside"),
        ("isl,osl\n5\n", CatalogError, "has 1 cells, the header has 2"),
        ("time,isl,osl\nsoon,5,5\n", CatalogError, "line 2, time is 'soon'"),
    ],
)
def test_a_malformed_trace_is_one_sentence(tmp_path, text, error, words):
    with pytest.raises(error, match=words) as caught:
        trace(tmp_path, text)
    assert "\n" not in str(caught.value) and "trace.csv" in str(caught.value)


def test_no_such_workload_or_trace(tmp_path):
    with pytest.raises(UnknownName, match="azure-code"):
        CATALOG.workload("azure-cod")
    with pytest.raises(CatalogError, match="cannot be read"):
        CATALOG.workload(str(tmp_path / "none.csv"))
    (tmp_path / "bytes.csv").write_bytes(b"isl,osl\n\xff\xfe,2\n")
    with pytest.raises(CatalogError, match="UTF-8"):
        CATALOG.workload(str(tmp_path / "bytes.csv"))


@pytest.mark.parametrize(
    "line, words",
    [
        ("{mean: 100, deviation: 5000, p50: 90, p90: 110, p99: 120, max: 130}", "no distribution"),
        ("{mean: 100, deviation: 50, p50: 90, p90: 80, p99: 120, max: 130}", "ascend"),
        ("{mean: 100, deviation: 50}", "p50"),
    ],
)
def test_a_file_that_contradicts_itself(tmp_path, line, words):
    (tmp_path / "workloads").mkdir()
    text = f"name: x\nsource: mine\ninput: {line}\noutput: {line}\n"
    (tmp_path / "workloads" / "mine.yaml").write_text(text)
    with pytest.raises(PerfplanError, match=words):
        Catalog([tmp_path]).workload("mine")


def test_a_rate_needs_a_unit(tmp_path):
    (tmp_path / "workloads").mkdir()
    path = CATALOG.source("workload", "azure-code")
    (tmp_path / "workloads" / "mine.yaml").write_text(path.read_text().replace("2.57 /s", "2.57"))
    with pytest.raises((BadQuantity, CatalogError), match="unit"):
        Catalog([tmp_path]).workload("mine")


def test_a_summary_tells_moments_percentiles_and_correlation(tmp_path):
    told = trace(tmp_path, "isl,osl\n10,1\n20,2\n30,3\n").summary()
    assert told["input"]["mean"] == 20 and told["output"]["max"] == 3
    assert told["correlation"] == pytest.approx(1)
    assert CATALOG.workload("azure-code").summary()["arrival_variation"] == pytest.approx(13.15)


def test_a_trace_is_shown_like_an_entry(tmp_path, capsys):
    from perfplan.cli.main import run

    (tmp_path / "t.csv").write_text("isl,osl\n10,1\n20,2\n")
    assert run(["catalog", "show", str(tmp_path / "t.csv")]) == 0
    assert "input.mean" in capsys.readouterr().out
    assert run(["catalog", "show", "lmsys", "--json"]) == 0 and run(["catalog", "list", "workloads"]) == 0
