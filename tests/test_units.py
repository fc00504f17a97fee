"""Units at the edges: what is read, what is refused, and that printing and reading agree."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perfplan.errors import BadQuantity, Infeasible, PerfplanError, nearest, offer
from perfplan.units import UNITS, parse, show


@pytest.mark.parametrize(("text", "unit", "value"), [
    ("80 GB", "B", 80e9), ("80GiB", "B", 80 * 2**30), ("900 GB/s", "B/s", 9e11), ("400 Gb/s", "B/s", 5e10),
    ("400 Gbps", "B/s", 5e10), ("3.35 TB/s", "B/s", 3.35e12), ("5 us", "s", 5e-6), ("5µs", "s", 5e-6),
    ("2 d", "s", 172800),
    ("1.5 h", "s", 5400), ("989.4 TFLOP/s", "FLOP/s", 9.894e14), ("989 TFLOP/s dense", "FLOP/s", 9.89e14),
    ("1.979 PFLOP/s", "FLOP/s", 1.979e15), ("1979 TOP/s", "OP/s", 1.979e15), ("700 W", "W", 700),
    ("1.2 MW", "W", 1.2e6),
    ("2.5$", "$/h", 2.5), ("$2.5/h", "$/h", 2.5), ("2.5 $/h", "$/h", 2.5), ("$3M", "$", 3e6), ("15T", "tokens", 15e12),
    ("300B tokens", "tokens", 3e11), (4096, "tokens", 4096), ("80 %", "1", 0.8), (0.8, "1", 0.8), ("1e3 B", "B", 1000),
    ("1 kWh", "J", 3.6e6), ("0 us", "s", 0), ("40 Gbit/s", "B/s", 5e9),
])
def test_reads(text, unit, value):
    assert parse(text, unit) == pytest.approx(value, rel=1e-12)


@pytest.mark.parametrize(("text", "unit", "hint"), [
    ("80", "B", "no unit"), (80, "B", "no unit"), (1e12, "FLOP/s", "no unit"), ("80 gb", "B", "bits"),
    ("1979 TFLOP/s sparse", "FLOP/s", "989.5 TFLOP/s"), ("495 TMAC/s", "FLOP/s", "1 MAC = 2 FLOP"),
    ("nan GB", "B", "finite"), ("inf GB", "B", "finite"), ("-1 GB", "B", "negative"), (math.nan, "1", "finite"),
    (math.inf, "1", "finite"), ("900 GB", "B/s", "not in B/s"), ("900 GB/s", "B", "not in B"),
    ("5 us", "B", "not in B"),
    ("1,000 GB", "B", ","), ("", "B", "not a quantity"), (True, "1", "not a quantity"), (None, "1", "not a quantity"),
    ([1], "1", "not a quantity"), ("1e400 B", "B", "range"), ("1e300 PFLOP/s", "FLOP/s", "finite"),
    ("989 TOP/s", "FLOP/s", "FLOP"),
    ("15 TB", "tokens", "tokens"), ("2:4", "1", "1"), ("80 GB GB", "B", "GB"),
])
def test_refuses_in_one_sentence(text, unit, hint):
    with pytest.raises(BadQuantity) as caught:
        parse(text, unit)
    message = str(caught.value)
    assert hint in message
    assert "\n" not in message


@given(st.floats(min_value=1e-3, max_value=1e17), st.sampled_from(sorted(set(UNITS))))
def test_what_is_shown_reads_back(value, unit):
    assert parse(show(value, unit), unit) == pytest.approx(value, rel=0.006)


@pytest.mark.parametrize(("value", "unit", "text"), [
    (80 * 2**30, "B", "80.0 GiB"), (999.9e9, "B/s", "1.00 TB/s"), (0, "s", "0 s"), (0, "B", "0 B"), (0.5, "1", "0.500"),
    (12.34e-6, "s", "12.3 us"), (54 * 86400.0, "s", "54.0 d"), (1.23e6, "$", "1.23 M$"), (2.5, "$/h", "2.50 $/h"),
    (15e12, "tokens", "15.0T"), (989.4e12, "FLOP/s", "989 TFLOP/s"), (math.inf, "s", "inf s"),
    (12345, "tokens/s", "12300 tokens/s"),
])
def test_shows(value, unit, text):
    assert show(value, unit) == text


def test_exit_codes_and_offers():
    assert PerfplanError("x").exit_code == 2
    assert Infeasible("x", ("y",)).exit_code == 1
    assert nearest("h100", ["h100-sxm", "a100"])[0] == "h100-sxm"
    assert "did you mean llama-3-70b" in offer("lama-3-70b", ["llama-3-70b"])
    assert "known are" in offer("zzz", ["a", "b"])
