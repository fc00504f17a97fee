"""Quantities with units at the edges, SI floats inside.

The traps of this field that `parse` knows: GB (1e9) and GiB (2**30); Gb/s (bits) and GB/s (bytes); a sparse peak is not
a peak; 1 MAC = 2 FLOP; T and B of "15T tokens" and "405B parameters" count, they are no terabytes and no bytes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

from perfplan.errors import BadQuantity

__all__ = ["UNITS", "parse", "show"]

_DECIMAL = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "E": 1e18}
_BINARY = {"": 1.0, "Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40, "Pi": 2.0**50}
_COUNT = {"": 1.0, "k": 1e3, "K": 1e3, "M": 1e6, "B": 1e9, "G": 1e9, "T": 1e12}


def _with(prefixes: Mapping[str, float], *units: str, scale: float = 1.0) -> dict[str, float]:
    return {prefix + unit: factor * scale for prefix, factor in prefixes.items() for unit in units}


_BYTES = (_with(_DECIMAL, "B") | _with(_BINARY, "B") | {"KB": 1e3}
          | _with(_DECIMAL, "b", "bit", scale=1 / 8) | _with(_BINARY, "b", "bit", scale=1 / 8))
_RATES = ({f"{name}/s": factor for name, factor in _BYTES.items()}
          | _with(_DECIMAL, "bps", scale=1 / 8) | _with(_DECIMAL, "Bps"))

# unit wanted -> every spelling that is accepted -> how many of the wanted unit it is
UNITS: Mapping[str, Mapping[str, float]] = {
    "B": _BYTES,
    "B/s": _RATES,
    "FLOP": _with(_DECIMAL, "FLOP"),
    "FLOP/s": _with(_DECIMAL, "FLOP/s", "FLOPS", "FLOPs/s"),
    "OP/s": _with(_DECIMAL, "OP/s", "OPS", "OPs/s"),
    "s": {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0,
          "days": 86400.0, "day": 86400.0},
    "W": _with(_DECIMAL, "W") | {"mW": 1e-3},
    "J": _with(_DECIMAL, "J") | _with(_DECIMAL, "Wh", scale=3600.0),
    "Hz": _with(_DECIMAL, "Hz"),
    "$": _with(_DECIMAL, "$") | _with(_DECIMAL, "USD") | {"B$": 1e9},
    "$/h": {"$/h": 1.0, "USD/h": 1.0, "$/hour": 1.0, "$": 1.0},
    "tokens": _COUNT | {f"{p}tokens": f for p, f in _COUNT.items()},
    "tokens/s": _with(_DECIMAL, "tokens/s", "tok/s"),
    "1/s": _with(_DECIMAL, "/s", "req/s", "requests/s", "tokens/s", "tok/s")
    | {"1/s": 1.0, "/min": 1 / 60, "/h": 1 / 3600},
    "1": {"": 1.0, "%": 0.01, "x": 1.0},
}
_PLAIN = ("1", "tokens")  # units in which a bare number says it all
_QUANTITY = re.compile(r"([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*(.*)")


def _number(text: str, shown: str, unit: str) -> tuple[float, str]:
    found = _QUANTITY.fullmatch(text)
    if found is None:
        wanted = "a finite number" if unit == "1" else f"a finite number and a unit of {unit}"
        raise BadQuantity(f"{shown} is not a quantity: write {wanted}, such as {_example(unit)}")
    value = float(found[1])
    if not math.isfinite(value) or value < 0:
        raise BadQuantity(f"{shown} is out of range: a quantity in {unit} must be finite and not negative")
    return value, found[2].strip()


def _example(unit: str) -> str:
    """Quoted examples of a quantity; of times, which run from launches to runs, several.

    >>> _example("B"), _example("s")
    ("'80 GiB'", "'5 us', '20 ms', '2 s' or '30 d'")
    """
    if unit == "s":
        return "'5 us', '20 ms', '2 s' or '30 d'"
    return repr({"B": "80 GiB", "B/s": "900 GB/s", "FLOP/s": "989 TFLOP/s", "OP/s": "1979 TOP/s", "W": "700 W",
                 "$": "2.5 $", "$/h": "2.5 $/h", "tokens": "15T", "1": "0.8", "J": "1 kWh", "Hz": "1.8 GHz",
                 "FLOP": "1 TFLOP", "tokens/s": "400 tokens/s", "1/s": "12 /s"}[unit])


def _refuse_traps(name: str, value: float, shown: str) -> None:
    if "sparse" in name.lower() or "sparsity" in name.lower():
        plain = re.sub(r"(?i)\W*\b(with\s+)?(sparse|sparsity)\b\W*", " ", name).strip()
        raise BadQuantity(f"{shown} is a sparse peak: give the dense figure, which for 2:4 sparsity is half of it "
                          f"({value / 2:g} {plain})")
    if re.search(r"MACs?\b|MACS", name):
        raise BadQuantity(f"{shown} counts multiply-accumulates: 1 MAC = 2 FLOP, so write {2 * value:g} "
                          f"{re.sub('MACs?|MACS', 'FLOP', name)}")


def _unknown_unit(name: str, shown: str, unit: str) -> BadQuantity:
    known = UNITS[unit]
    if not name:
        return BadQuantity(f"{shown} has no unit; write it like {_example(unit)}")
    twins = [k for k in known if k.lower() == name.lower()]
    if twins:
        bits = " (b is bits, B is bytes)" if unit in ("B", "B/s") else ""
        return BadQuantity(f"{shown} is ambiguous: upper and lower case matter, write {' or '.join(twins)}{bits}")
    return BadQuantity(f"{shown} is not in {unit}: unit {name!r} is not one of its units, write it like "
                       f"{_example(unit)}")


def _money_first(text: str) -> str:
    found = re.fullmatch(r"\$\s*([\d.eE+-]+)\s*([kMB]?)\s*(/h(?:our)?)?", text)
    return f"{found[1]} {found[2]}${found[3] or ''}" if found else text


def parse(text: object, unit: str, what: str = "") -> float:
    """The value of a quantity such as "900 GB/s", in SI `unit` ("B/s"). what: the option that gives it, for errors.

    Bare numbers are read only where the unit is "1" or "tokens". Percent is read where the unit is "1".

    >>> parse("80 GiB", "B") == 80 * 2**30, parse("400 Gb/s", "B/s") == 50e9, parse("15T", "tokens") == 15e12
    (True, True, True)
    """
    shown = f"{what} {text!r}".lstrip()
    if isinstance(text, bool) or not isinstance(text, (str, int, float)):
        raise BadQuantity(f"{shown} is not a quantity: write it like {_example(unit)}")
    value, name = _number(_money_first(str(text).strip()), shown, unit)
    _refuse_traps(name, value, shown)
    name = re.sub(r"\s*\bdense\b\s*", "", name)
    factor = UNITS[unit].get(name, UNITS[unit].get(name.replace(" ", "")))
    if factor is None or (not name and unit not in _PLAIN):
        raise _unknown_unit(name, shown, unit)
    result = value * factor
    if not math.isfinite(result):
        raise BadQuantity(f"{shown} is out of range: it is not a finite number of {unit}")
    return result


_TIME = {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_SHOWN: Mapping[str, Mapping[str, float]] = {
    "B": _with(_BINARY, "B"), "B/s": _with(_DECIMAL, "B/s"), "FLOP": _with(_DECIMAL, "FLOP"),
    "FLOP/s": _with(_DECIMAL, "FLOP/s"), "OP/s": _with(_DECIMAL, "OP/s"), "s": _TIME, "W": _with(_DECIMAL, "W"),
    "J": _with(_DECIMAL, "Wh", scale=3600.0), "Hz": _with(_DECIMAL, "Hz"), "$/h": {"$/h": 1.0},
    "$": {"$": 1.0, "k$": 1e3, "M$": 1e6, "B$": 1e9}, "tokens": {"": 1.0, "k": 1e3, "M": 1e6, "B": 1e9, "T": 1e12},
    "tokens/s": {"tokens/s": 1.0}, "1/s": {"/s": 1.0}, "1": {"": 1.0},
}


def _digits(value: float, digits: int) -> str:
    if value and not 1e-4 <= abs(value) < 1e15:
        return f"{value:.{digits - 1}e}"
    places = max(0, digits - 1 - math.floor(math.log10(abs(value)))) if value else 0
    return f"{value:.{places}f}"


def show(value: float, unit: str, digits: int = 3) -> str:
    """`value` in SI `unit` for people: `digits` significant digits, a prefix that suits (memory binary, rates decimal).

    >>> show(80 * 2**30, "B"), show(9e11, "B/s"), show(0.00123, "s"), show(15e12, "tokens")
    ('80.0 GiB', '900 GB/s', '1.23 ms', '15.0T')
    """
    if not math.isfinite(value):
        return f"{value} {unit}".removesuffix(" 1")
    rounded = float(f"{value:.{digits - 1}e}")
    scales = _SHOWN.get(unit, {unit: 1.0})
    fitting = [name for name, factor in scales.items() if abs(rounded) >= factor]
    name = fitting[-1] if fitting else next(iter(scales)) if value or unit != "s" else "s"
    number = _digits(float(f"{value / scales[name]:.{digits - 1}e}"), digits)
    return f"{number}{name}" if unit == "tokens" else f"{number} {name}".strip()
