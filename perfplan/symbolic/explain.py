"""The tree of quantities behind an estimate: symbol, expression, value, unit and source, as rows, text or LaTeX.

Nodes come from trace mode (`perfplan.formulas.core.tracing`). A quantity that appears again is printed once, numbered,
and referred to by its number afterwards.
"""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from perfplan.errors import UnknownName, nearest
from perfplan.formulas.core import Node, node_of
from perfplan.symbolic.declared import parameters, summary
from perfplan.symbolic.expressions import Expression, expression, latex_name, to_latex, to_text
from perfplan.units import show

__all__ = ["Given", "Row", "find", "quantities", "rows", "to_latex_lines", "to_lines"]

_WIDTH = 100  # characters of a printed line
_Key = tuple[str, str, float, tuple[tuple[str, float], ...]]


@dataclass(frozen=True)
class Given:
    """One argument of a quantity: its value in SI `unit`, and whether a row below computes it."""

    name: str
    value: float
    unit: str
    computed: bool


@dataclass(frozen=True)
class Row:
    """One quantity of the tree; `label` is the argument of the row above that it feeds, "" where the formula calls it.

    `number` is set for a quantity that appears more than once; `repeated` marks the later times.
    """

    depth: int
    label: str
    symbol: str
    name: str
    meaning: str
    expression: str
    latex: str
    value: float
    unit: str
    source: str
    given: tuple[Given, ...]
    number: int
    repeated: bool


@dataclass(frozen=True)
class _Placed:
    depth: int
    label: str
    symbol: str
    node: Node
    unit: str

    @property
    def key(self) -> _Key:
        """What makes two quantities the same: formula, value and arguments."""
        formula = self.node.formula
        given = tuple((name, float(value)) for name, value in self.node.arguments.items())
        return formula.name, formula.symbol, self.node.value, given


def _is_total(node: Node) -> bool:
    return node.formula.name == "total"


def _expression(node: Node) -> Expression:
    return expression(node.formula, node.arguments)


def _below(node: Node) -> Iterator[tuple[str, str, Node]]:
    """(argument that it feeds or "", its symbol in the expression of `node`, quantity) of all just below `node`."""
    fed = [(name, inner) for name, value in node.arguments.items() if (inner := node_of(value)) is not None]
    for name, inner in fed:
        yield name, inner.formula.symbol, inner
    called = node.children[len(fed) :]
    names = _expression(node).calls if called else ()
    yield from (("", name, inner) for name, inner in dict(zip(names, called, strict=False)).items())


def _walk(placed: _Placed, depth: int) -> Iterator[_Placed]:
    yield placed
    if placed.depth >= depth:
        return
    units = {given.name: given.unit for given in _given(placed.node)}
    for label, symbol, node in _below(placed.node):
        unit = units[label] if label and node.formula.name == "combination" else node.formula.unit
        yield from _walk(_Placed(placed.depth + 1, label, symbol, node, unit), depth)


def _given(node: Node) -> tuple[Given, ...]:
    declared = parameters(node.formula)
    result = []
    for name, value in node.arguments.items():
        inner = node_of(value)
        unit = declared[name].unit if name in declared else inner.formula.unit if inner else node.formula.unit
        result.append(Given(name, float(value), unit, inner is not None))
    return tuple(result)


def _texts(node: Node) -> tuple[str, str]:
    """The expression of a node as text and as LaTeX; a total is written in the order of its parts."""
    if _is_total(node):
        return " + ".join(node.arguments) or "0", " + ".join(map(latex_name, node.arguments)) or "0"
    body = _expression(node).body
    return to_text(body), to_latex(body)


def _row(placed: _Placed, number: int, repeated: bool) -> Row:
    node = placed.node
    text, latex = _texts(node)
    formula = node.formula
    meaning = "sum of the parts" if _is_total(node) else summary(formula)
    return Row(
        placed.depth,
        placed.label,
        placed.symbol,
        formula.name,
        meaning,
        text,
        latex,
        node.value,
        placed.unit,
        formula.source,
        _given(node),
        number,
        repeated,
    )


def _once(placed: list[_Placed]) -> Iterator[tuple[_Placed, bool]]:
    """The quantities with all below a repeated one left out, and whether each one is a repetition."""
    seen: set[_Key] = set()
    skip_below: int | None = None
    for item in placed:
        if skip_below is not None and item.depth > skip_below:
            continue
        repeated = item.key in seen
        skip_below = item.depth if repeated else None
        seen.add(item.key)
        yield item, repeated


def rows(quantity: object, depth: int = 100, label: str = "") -> list[Row]:
    """The tree below `quantity` (a node, or a value computed in trace mode), `depth` levels deep, top first.

    `label` names the top where it is arithmetic without a symbol of its own.

    >>> from perfplan.formulas.core import tracing
    >>> from perfplan.formulas.collectives import point_to_point_time
    >>> with tracing():
    ...     time = point_to_point_time(50e6, 5e-6, 50e9)
    >>> print(to_lines(rows(time)))
    t_p2p = latency + size/bandwidth = 1.01 ms
        where size = 47.7 MiB, latency = 5.00 us, bandwidth = 50.0 GB/s
        Hockney 1994: latency plus size over bandwidth
    """
    node = quantity if isinstance(quantity, Node) else node_of(quantity)
    if node is None:
        raise UnknownName(f"{quantity!r} was not computed by a formula in trace mode, so there is no tree to explain")
    top = _Placed(0, "" if node.formula.symbol else label, node.formula.symbol, node, node.formula.unit)
    shown = list(_once(list(_walk(top, depth))))
    counts = Counter(item.key for item, _ in shown)
    numbers: dict[_Key, int] = {}
    result = []
    for item, repeated in shown:
        if counts[item.key] > 1:
            numbers.setdefault(item.key, len(numbers) + 1)
        result.append(_row(item, numbers.get(item.key, 0), repeated))
    return result


def quantities(root: Node) -> dict[str, Node]:
    """All quantities below `root` by name of formula, printed symbol and name of part; the largest of each name."""
    found: dict[str, Node] = {}
    todo, seen = [root], set()
    while todo:
        node = todo.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        todo += node.children
        for name, named in _named(node):
            if name not in found or named.value > found[name].value:
                found[name] = named
    return found


def _named(node: Node) -> Iterator[tuple[str, Node]]:
    if node.formula.symbol:
        yield node.formula.symbol, node
    if not _is_total(node):
        yield node.formula.name, node
        return
    yield from ((name, inner) for name, value in node.arguments.items() if (inner := node_of(value)) is not None)


def find(root: Node, name: str, main: Sequence[str] = ()) -> Node:
    """The quantity below `root` that is called `name` (formula, printed symbol or part; case and "-" do not matter).
    main: names that are offered before all others where there is none."""
    found = quantities(root)
    plain = {known.lower().replace("-", "_").replace(" ", "_"): known for known in reversed(found)}
    wanted = plain.get(name.lower().replace("-", "_").replace(" ", "_"))
    if wanted is None:
        close = nearest(name, main) or nearest(name, found)
        hint = f"did you mean {', '.join(close)}?" if close else f"ask for {', '.join(main)} or a part of them"
        raise UnknownName(f"this estimate has no quantity {name!r}; {hint}")
    return found.get(name, found[wanted])


def _shown(value: float, unit: str) -> str:
    """As `show`, but counts in full."""
    return f"{value:.0f}" if unit == "1" and value.is_integer() and abs(value) < 1e12 else show(value, unit)


def _where(row: Row) -> str:
    shown = (f"{g.name} = {_shown(g.value, g.unit)}" for g in row.given)
    return "where " + ", ".join(shown) if row.given else ""


def _is_part(row: Row) -> bool:
    """Whether the row feeds arithmetic, which calls its parts by their symbols, primed where two are the same."""
    return row.label.rstrip("'") == row.symbol


def _name(row: Row) -> str:
    return row.label if _is_part(row) or not row.symbol else row.symbol


def _lines(row: Row) -> list[str]:
    mark = f" [{row.number}]" if row.number else ""
    name = _name(row) if _is_part(row) else ": ".join(part for part in (row.label, row.symbol) if part)
    value = _shown(row.value, row.unit)
    if row.repeated:
        return [f"{name} = {value}, see{mark}"]
    head = f"{name} = {row.expression} = {value}{mark}"
    source = "" if row.name == "total" else row.source
    return [head, *(f"    {text}" for text in (_where(row), source) if text)]


def to_lines(tree: list[Row]) -> str:
    """The rows as indented text: expression and value, then the arguments, then the source."""
    return "\n".join(_wrapped("  " * row.depth, line) for row in tree for line in _lines(row))


def _wrapped(indent: str, line: str) -> str:
    deeper = indent + " " * (len(line) - len(line.lstrip()) + 6)
    return textwrap.fill(
        line, _WIDTH, initial_indent=indent, subsequent_indent=deeper, break_long_words=False, break_on_hyphens=False
    )


def _latex_value(row: Row) -> str:
    number, _, unit = _shown(row.value, row.unit).partition(" ")
    if "e" in number:
        mantissa, exponent = number.split("e")
        number = f"{mantissa} \\cdot 10^{{{int(exponent)}}}"
    shown = unit.replace("$", r"\$")
    return f"{number}\\,\\mathrm{{{shown}}}" if unit else number


def to_latex_lines(tree: list[Row]) -> str:
    """The rows as a LaTeX `align*` environment, one quantity a line, repeated ones left out."""
    lines = [f"{latex_name(_name(row))} &= {row.latex} = {_latex_value(row)}" for row in tree if not row.repeated]
    return "\\begin{align*}\n" + " \\\\\n".join(lines) + "\n\\end{align*}"
