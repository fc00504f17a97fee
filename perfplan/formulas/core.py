"""One Python body per formula: numbers, NumPy columns and SymPy symbols all go through it.

`formula` attaches symbol, unit and source to a cost function and, in trace mode, records each call. The
functions below it (`maximum`, `where`, ...) are the only ones a formula may use that care about the argument type.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import wraps
from typing import Any

__all__ = [
    "FORMULAS",
    "Formula",
    "Node",
    "Value",
    "ceil",
    "ceil_div",
    "exp",
    "formula",
    "log2",
    "maximum",
    "minimum",
    "node_of",
    "standing_in",
    "total",
    "tracing",
    "where",
]


@dataclass(frozen=True)
class Formula:
    """What is known of one formula: name, printed symbol, unit of the result, source and the bare body."""

    name: str
    symbol: str
    unit: str
    source: str
    body: Callable[..., Any]


@dataclass
class Node:
    """One recorded quantity: the formula that made it, its arguments by name, its value and the quantities below it."""

    formula: Formula
    arguments: dict[str, Any]
    value: float = math.nan
    children: list[Node] = field(default_factory=list)


class Value(float):
    """A float that remembers the node which computed it, so that composition keeps the tree of quantities."""

    node: Node

    def __new__(cls, number: float, node: Node) -> Value:
        """Wrap `number`, computed at `node`."""
        self = super().__new__(cls, number)
        self.node = node
        return self

    def __reduce__(self) -> tuple[type[float], tuple[float]]:
        """Copied or stored, it is a plain float."""
        return float, (float(self),)

    def __add__(self, other: Any) -> Any:  # noqa: D105
        return _combined(operator.add, self, other)

    def __radd__(self, other: Any) -> Any:  # noqa: D105
        return _combined(operator.add, other, self)

    def __sub__(self, other: Any) -> Any:  # noqa: D105
        return _combined(operator.sub, self, other)

    def __rsub__(self, other: Any) -> Any:  # noqa: D105
        return _combined(operator.sub, other, self)

    def __mul__(self, other: Any) -> Any:  # noqa: D105
        return _combined(operator.mul, self, other)

    def __rmul__(self, other: Any) -> Any:  # noqa: D105
        return _combined(operator.mul, other, self)

    def __truediv__(self, other: Any) -> Any:  # noqa: D105
        return _combined(operator.truediv, self, other)

    def __rtruediv__(self, other: Any) -> Any:  # noqa: D105
        return _combined(operator.truediv, other, self)


class _Parts(dict[str, Value]):
    """The quantities of a combination by printed symbol, primed where two have the same."""

    def enter(self, value: Value) -> str:
        name = value.node.formula.symbol
        while name in self and self[name].node is not value.node:
            name += "'"
        self[name] = value
        return name

    def reader(self, operand: Any) -> Callable[[dict[str, Any]], Any]:
        """How to get `operand` from values or symbols of the parts."""
        node = node_of(operand)
        if node is None:
            return lambda given: operand
        if node.formula.name != "combination":
            name = self.enter(operand)
            return lambda given: given[name]
        names = {old: self.enter(value) for old, value in node.arguments.items()}
        return lambda given: node.formula.body(**{old: given[new] for old, new in names.items()})


def _combined_unit(operate: Callable[[Any, Any], Any], a: str, b: str) -> str:
    """The unit of the result, for reading: rates and times cancel, other products are written out."""
    if operate in (operator.add, operator.sub):
        return b if a == "1" else a
    if operate is operator.truediv:
        return a if b == "1" else "1" if a == b else "s" if b == f"{a}/s" else f"{a}/{b}"
    if "s" in (a, b) and (a + b).count("/s") == 1:
        return (b if a == "s" else a).removesuffix("/s")
    return b if a == "1" else a if b == "1" else f"{a}*{b}"


def _settled(operate: Callable[[Any, Any], Any], left: Any, right: Any) -> Any:
    """What adding 0 or multiplying by 1 leaves as it is, 0 where a finite quantity is multiplied by 0, else None."""
    neutral = 0 if operate in (operator.add, operator.sub) else 1
    for number, other, first in ((right, left, False), (left, right, True)):
        if type(number) is Value or (first and operate in (operator.sub, operator.truediv)):
            continue
        if number == neutral:
            return other
        if number == 0 and operate is operator.mul and math.isfinite(other):
            return 0.0
    return None


def _combined(operate: Callable[[Any, Any], Any], left: Any, right: Any) -> Any:
    """Arithmetic on quantities outside the formulas: a quantity of its own, made of the quantities that went in."""
    if not (isinstance(left, int | float) and isinstance(right, int | float)):
        return operate(_plain(left), _plain(right))
    if (same := _settled(operate, left, right)) is not None:
        return same
    parts = _Parts()
    first, second = parts.reader(left), parts.reader(right)
    units = [node.formula.unit if (node := node_of(x)) else "1" for x in (left, right)]
    unit = _combined_unit(operate, *units)
    spec = Formula("combination", "", unit, "", lambda **given: operate(first(given), second(given)))
    value = operate(float(left), float(right))
    return Value(value, Node(spec, dict(parts), value, [part.node for part in parts.values()]))


def _plain(value: Any) -> Any:
    """A float in the place of a recorded value, anything else as it is."""
    return float(value) if isinstance(value, Value) else value


FORMULAS: dict[str, Formula] = {}
_watch: ContextVar[Callable[[Formula, dict[str, Any]], Any] | None] = ContextVar("watch", default=None)
"""What a call of a formula is handed to instead of its body: a recorder, or what stands in for it."""


def node_of(value: Any) -> Node | None:
    """The node that computed `value`, or None for a plain number."""
    return value.node if isinstance(value, Value) else None


@contextmanager
def _watched(watch: Callable[[Formula, dict[str, Any]], Any]) -> Iterator[None]:
    token = _watch.set(watch)
    try:
        yield
    finally:
        _watch.reset(token)


@contextmanager
def tracing() -> Iterator[Node]:
    """Record every formula call inside the block below the yielded root node."""
    root = Node(Formula("root", "", "", "", lambda: None), {})
    with _watched(_recorder(root)):
        yield root


@contextmanager
def standing_in(make: Callable[[Formula, dict[str, Any]], Any]) -> Iterator[None]:
    """Let every formula call inside the block return `make(formula, arguments)`: how an expression names its parts."""
    with _watched(make):
        yield


def _recorder(parent: Node) -> Callable[[Formula, dict[str, Any]], Value]:
    """Runs a formula and records it below `parent`, and the formulas that it calls below itself."""

    def record(spec: Formula, arguments: dict[str, Any]) -> Value:
        node = Node(spec, arguments, children=[n for a in arguments.values() if (n := node_of(a)) is not None])
        with _watched(_recorder(node)):
            node.value = float(spec.body(**{name: _plain(value) for name, value in arguments.items()}))
        parent.children.append(node)
        return Value(node.value, node)

    return record


def formula(symbol: str, unit: str, *, source: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Declare a cost function as a formula with its printed `symbol`, the `unit` of its result and its `source`."""

    def decorate(body: Callable[..., Any]) -> Callable[..., Any]:
        spec = Formula(body.__name__, symbol, unit, source, body)
        names = body.__code__.co_varnames[: body.__code__.co_argcount]

        @wraps(body)
        def call(*args: Any, **kwargs: Any) -> Any:
            watch = _watch.get()
            if watch is None:
                return body(*args, **kwargs)
            return watch(spec, dict(zip(names, args, strict=False)) | kwargs)

        FORMULAS[spec.name] = spec
        call.formula = spec  # type: ignore[attr-defined]
        return call

    return decorate


def total(symbol: str, unit: str, parts: dict[str, Any]) -> Any:
    """Sum of named parts, recorded as one quantity in trace mode."""
    watch = _watch.get()
    if watch is None:
        return sum(parts.values())
    return watch(Formula("total", symbol, unit, "sum of the parts", lambda **terms: sum(terms.values())), dict(parts))


class _Libraries(dict[type, str]):
    """Type of an argument -> whose functions take it, "" for plain numbers; each type is looked at once."""

    def __missing__(self, of: type) -> str:
        module = of.__module__.partition(".")[0]
        column = module == "numpy" and of.__name__ == "ndarray"
        self[of] = module if module == "sympy" or column else "units" if hasattr(of, "larger") else ""
        return self[of]


_LIBRARY = _Libraries()


def maximum(a: Any, b: Any) -> Any:
    """The larger of two numbers, columns or symbols."""
    library = _LIBRARY[type(a)] or _LIBRARY[type(b)]
    if not library:
        return max(a, b)
    if library == "numpy":
        import numpy

        return numpy.maximum(a, b)
    if library == "sympy":
        import sympy

        return sympy.Max(a, b, evaluate=False)
    return a.larger(b) if hasattr(a, "larger") else b.larger(a)


def minimum(a: Any, b: Any) -> Any:
    """The smaller of two numbers, columns or symbols."""
    library = _LIBRARY[type(a)] or _LIBRARY[type(b)]
    if not library:
        return min(a, b)
    if library == "numpy":
        import numpy

        return numpy.minimum(a, b)
    if library == "sympy":
        import sympy

        return sympy.Min(a, b, evaluate=False)
    return a.smaller(b) if hasattr(a, "smaller") else b.smaller(a)


def ceil(a: Any) -> Any:
    """The smallest integer not below `a`."""
    library = _LIBRARY[type(a)]
    if library == "numpy":
        import numpy

        return numpy.ceil(a)
    if library == "sympy":
        import sympy

        return sympy.ceiling(a)
    return a.ceiling() if library else math.ceil(a)


def ceil_div(a: Any, b: Any) -> Any:
    """a / b rounded up, for whole numbers."""
    return ceil(a / b)


def log2(a: Any) -> Any:
    """Logarithm to base 2."""
    library = _LIBRARY[type(a)]
    if library == "numpy":
        import numpy

        return numpy.log2(a)
    if library == "sympy":
        import sympy

        return sympy.log(a, 2)
    return a.logarithm() if library else math.log2(a)


def exp(a: Any) -> Any:
    """e to the power `a`."""
    library = _LIBRARY[type(a)]
    if library == "numpy":
        import numpy

        return numpy.exp(a)
    if library == "sympy":
        import sympy

        return sympy.exp(a)
    return a.exponential() if library else math.exp(a)


def where(condition: Any, a: Any, b: Any) -> Any:
    """`a` where the condition holds, else `b`; both are evaluated, so keep both finite."""
    library = _LIBRARY[type(condition)] or _LIBRARY[type(a)] or _LIBRARY[type(b)]
    if library == "numpy":
        import numpy

        return numpy.where(condition, a, b)
    if library == "sympy":
        import sympy

        return sympy.Piecewise((a, condition), (b, True), evaluate=False)
    return a if condition else b
