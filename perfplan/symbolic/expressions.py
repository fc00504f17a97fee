"""Symbolic expressions of formulas: their one body run on SymPy symbols, as text and as LaTeX."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import sympy
from sympy.printing.latex import LatexPrinter
from sympy.printing.str import StrPrinter

from perfplan.formulas.core import Formula, standing_in

__all__ = ["Expression", "expression", "latex_name", "to_latex", "to_text"]


@dataclass(frozen=True)
class Expression:
    """The body of a formula on symbols; `calls` names the inner formula calls in the order in which they were made."""

    body: Any
    calls: tuple[str, ...]


class _Names:
    """Symbols for inner calls: the declared symbol, primed where one formula is called again with other arguments."""

    def __init__(self, taken: Iterable[str]) -> None:
        self.taken = set(taken)
        self.known: dict[tuple[str, str], str] = {}
        self.calls: list[str] = []

    def __call__(self, formula: Formula, arguments: dict[str, Any]) -> Any:
        key = (formula.name, str(arguments))
        if key not in self.known:
            name = formula.symbol
            while name in self.taken:
                name += "'"
            self.taken.add(name)
            self.known[key] = name
        self.calls.append(self.known[key])
        return _symbol(self.known[key])


def _symbol(name: str) -> Any:
    return sympy.Symbol(name, nonnegative=True)


def expression(formula: Formula, names: Iterable[str]) -> Expression:
    """The body of `formula` on symbols named `names` after its parameters, each inner formula as one symbol.

    >>> from perfplan.formulas.collectives import ring_all_gather_time as f
    >>> names = ["ranks", "domains", "size", "launch", "hop", "net_hop", "bandwidth", "fill"]
    >>> to_text(expression(f.formula, names).body)
    't_fill + t_ring + size*(ranks - 1)/(bandwidth*ranks)'
    """
    given = list(names)
    stand_in = _Names(given)
    with standing_in(stand_in):
        body = sympy.sympify(formula.body(**{name: _symbol(name) for name in given}))
    return Expression(body, tuple(stand_in.calls))


class _Text(StrPrinter):  # type: ignore[misc]
    """Prints choices as the formulas write them, and what is subtracted last."""

    def _as_ordered_terms(self, expr: Any, order: Any = None) -> list[Any]:
        terms: list[Any] = super()._as_ordered_terms(expr, order)
        return sorted(terms, key=lambda term: bool(term.could_extract_minus_sign()))

    def _call(self, name: str, args: Iterable[Any]) -> str:
        return f"{name}({', '.join(self._print(a) for a in args)})"

    def _print_Max(self, expr: Any) -> str:
        return self._call("max", sorted(expr.args, key=str))

    def _print_Min(self, expr: Any) -> str:
        return self._call("min", sorted(expr.args, key=str))

    def _print_ceiling(self, expr: Any) -> str:
        return self._call("ceil", expr.args)

    def _print_Piecewise(self, expr: Any) -> str:
        (value, condition), (other, _) = expr.args[0], expr.args[-1]
        return self._call("where", (condition, value, other))


def to_text(body: Any) -> str:
    """`body` on one line of text, choices written max, min, ceil and where(condition, then, else)."""
    return str(_Text().doprint(body))


def latex_name(name: str) -> str:
    r"""`name` as LaTeX: what follows the first underscore of a printed symbol is its subscript.

    >>> latex_name("T_AR,ring"), latex_name("bandwidth"), latex_name("tp communication")
    ('T_{\\mathrm{AR,ring}}', '\\mathit{bandwidth}', '\\text{tp communication}')
    """
    plain = name.rstrip("'")
    head, _, tail = plain.partition("_")
    if len(head) == 1 and tail:
        shown = f"{head}_{{\\mathrm{{{_escape(tail)}}}}}"
    else:
        shown = f"\\mathit{{{_escape(plain)}}}" if plain.isidentifier() else f"\\text{{{_escape(plain)}}}"
    return shown + "'" * (len(name) - len(plain))


def _escape(text: str) -> str:
    return re.sub(r"([_%&#$])", r"\\\1", text)


class _Latex(LatexPrinter):  # type: ignore[misc]
    """Names every symbol by `latex_name`."""

    def _print_Symbol(self, expr: Any, style: str = "plain") -> str:
        return latex_name(expr.name)


def to_latex(body: Any) -> str:
    """`body` as LaTeX mathematics."""
    return str(_Latex({"mul_symbol": "dot"}).doprint(body))
