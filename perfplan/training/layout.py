"""Layouts and their grammar: `tp8 sp1 cp1 pp8 vpp8 ep1 etp1 dp16 mbs1 zero1 rc=none off=none`."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from perfplan.errors import BadLayout, offer

__all__ = [
    "CP_KINDS",
    "DEGREES",
    "MODULES",
    "OFFLOADS",
    "PRESETS",
    "Layout",
    "block",
    "parse_offload",
    "parse_recompute",
    "parse_tokens",
]

DEGREES = ("tp", "sp", "cp", "pp", "vpp", "ep", "etp", "dp", "mbs")
MOST = 1 << 20  # accelerators: no degree or width is larger
CP_KINDS = ("ring", "allgather", "a2a")
MODULES = ("core_attn", "mlp", "moe", "moe_act", "layernorm", "mla_up_proj", "shared_experts")
OFFLOADS = ("acts", "input", "qkv", "out", "optim", "params")
PRESETS = (
    "zero0",
    "zero1",
    "zero2",
    "zero3",
    "fsdp",
    "hsdpN",
    "micsN",
    "3levelN-M",
    "zeroppN",
    "wN-gN-oN",
    "hpzN",
    "qwz",
    "qgz",
)
_WIDTHS = {
    "zero0": (1, 1, 1),
    "none": (1, 1, 1),
    "zero1": (1, 1, 0),
    "zero2": (1, 0, 0),
    "zero3": (0, 0, 0),
    "fsdp": (0, 0, 0),
}


@dataclass(frozen=True)
class Layout:
    """One layout, or many as NumPy columns of the same length.

    tp, sp, cp, pp, vpp, ep, etp, dp: degrees (training_core.md); mbs: micro-batch in sequences; shard_weights,
    shard_gradients, shard_optimizer: ranks that share one copy, 0 = all replicas of the parameter; cp_kind: how context
    parallelism exchanges keys and values; recompute: modules recomputed in backward, ("full",) = whole layers,
    ("full:N",) = the first N whole layers of each pipeline chunk; offload: what lies in host memory, each with a number
    (0 = none given): the layers that activations are offloaded in, or the interval at which the accelerator updates a
    subgroup of the optimizer state; hpz: ranks that share the copy of sharded weights which backward gathers, 0 = none;
    qwz, qgz: whether weights are gathered in int8 and gradients reduced in int4.
    """

    tp: Any = 1
    sp: Any = 0
    cp: Any = 1
    pp: Any = 1
    vpp: Any = 1
    ep: Any = 1
    etp: Any = 1
    dp: Any = 1
    mbs: Any = 1
    shard_weights: Any = 1
    shard_gradients: Any = 1
    shard_optimizer: Any = 1
    cp_kind: Any = "ring"
    recompute: Any = ()
    offload: Any = ()
    hpz: Any = 0
    qwz: Any = 0
    qgz: Any = 0

    @property
    def world(self) -> Any:
        """Accelerators that the layout uses: tp * cp * pp * dp."""
        return self.tp * self.cp * self.pp * self.dp

    @property
    def sharding(self) -> str:
        """Name of the three widths."""
        widths = (self.shard_weights, self.shard_gradients, self.shard_optimizer)
        for name in ("zero0", "zero1", "zero2", "zero3"):
            if _WIDTHS[name] == widths:
                return name
        if len(set(widths)) == 1:
            return f"hsdp{widths[0]}"
        return "w{}-g{}-o{}".format(*widths)

    @classmethod
    def parse(cls, text: str) -> Layout:
        """The layout written as tokens; every degree that is not named is 1 (sp 0).

        >>> str(Layout.parse("tp8 sp1 pp8 vpp2 dp4 zero1 rc=selective"))
        'tp8 sp1 cp1 pp8 vpp2 ep1 etp1 dp4 mbs1 zero1 rc=core_attn'
        """
        return replace(cls(), **parse_tokens(text))

    def __str__(self) -> str:
        """All tokens of the layout, in the order of the grammar."""
        degrees = " ".join(f"{name}{getattr(self, name)}" for name in DEGREES)
        kind = "" if self.cp_kind == "ring" else f" cp={self.cp_kind}"
        away = f" off={','.join(_offload_words(self.offload))}" if self.offload else ""
        options = f"{f' hpz{self.hpz}' if self.hpz else ''}{' qwz' * self.qwz}{' qgz' * self.qgz}"
        return f"{degrees} {self.sharding}{options}{kind} rc={','.join(self.recompute) or 'none'}{away}"


def parse_recompute(text: str) -> tuple[str, ...]:
    """Modules named by `rc=`: none, selective (core attention), full, full:N, or a comma-separated list."""
    if text == "none":
        return ()
    if text == "selective":
        return ("core_attn",)
    if text == "full" or (text.startswith("full:") and block((text,))):
        return (text,)
    modules = tuple(sorted(set(text.split(","))))
    for module in modules:
        if module not in MODULES:
            raise BadLayout(
                f"layout token rc={text}: unknown module {module!r}{offer(module, MODULES)};"
                f" use none, selective, full, full:N or a list of {', '.join(MODULES)}"
            )
    return modules


def block(recompute: tuple[str, ...]) -> int:
    """Layers recomputed at the start of each pipeline chunk under `rc=full:N`; 0 under any other setting.

    >>> block(("full:5",)), block(("full",))
    (5, 0)
    """
    match = re.fullmatch(r"full:([1-9]\d{0,5})", recompute[0]) if len(recompute) == 1 else None
    return int(match[1]) if match else 0


def _offload_words(offload: tuple[tuple[str, int], ...]) -> list[str]:
    return [f"{name}:{layers}" if layers else name for name, layers in offload]


def parse_offload(text: str) -> tuple[tuple[str, int], ...]:
    """What `off=` keeps in host memory: none, or a list of names, each with `:N` if a number goes with it.

    >>> parse_offload("qkv,input"), parse_offload("acts:20,optim")
    ((('input', 0), ('qkv', 0)), (('acts', 20), ('optim', 0)))
    """
    if text == "none":
        return ()
    found: dict[str, int] = {}
    for part in text.split(","):
        name, colon, layers = part.partition(":")
        if name not in OFFLOADS:
            raise BadLayout(
                f"layout token off={text}: unknown name {name!r}{offer(name, OFFLOADS)};"
                f" use none or a list of {', '.join(OFFLOADS)}"
            )
        if colon and (not layers.isdecimal() or not 1 <= int(layers) <= MOST):
            raise BadLayout(f"layout token off={text}: after {name}: stands a number from 1 on")
        found[name] = int(layers or 0)
    if "acts" in found and found.keys() & {"input", "qkv", "out"}:
        raise BadLayout(f"layout token off={text}: acts is everything kept for backward, tensors included")
    if found.get("params"):
        raise BadLayout(f"layout token off={text}: params takes no number, all weights go")
    return tuple(sorted(found.items()))


_STATE = ("shard_weights", "shard_gradients", "shard_optimizer")


def _state(weights: int, gradients: int, optimizer: int) -> dict[str, int]:
    return dict(zip(_STATE, (weights, gradients, optimizer), strict=True))


_PATTERNS: tuple[tuple[str, Callable[..., dict[str, int]]], ...] = (
    (r"w(\d+)-g(\d+)-o(\d+)", _state),
    (r"(?:hsdp|mics)(\d+)", lambda n: _state(n, n, n)),
    (r"3level(\d+)-(\d+)", lambda n, m: _state(n, m, 0)),
    (r"zeropp(\d+)", lambda n: _state(0, 0, 0) | {"hpz": n, "qwz": 1, "qgz": 1}),
    (r"hpz(\d+)", lambda n: {"hpz": n}),
    (r"qwz", lambda: {"qwz": 1}),
    (r"qgz", lambda: {"qgz": 1}),
)


def _sharding(token: str) -> dict[str, int] | None:
    if token in _WIDTHS:
        return dict(zip(_STATE, _WIDTHS[token], strict=True))
    for pattern, fields in _PATTERNS:
        if match := re.fullmatch(pattern, token):
            return fields(*map(int, match.groups()))
    return None


def _token(token: str) -> dict[str, Any]:
    if token.startswith("rc="):
        return {"recompute": parse_recompute(token[3:])}
    if token.startswith("off="):
        return {"offload": parse_offload(token[4:])}
    if token.startswith("cp=") and token[3:] in CP_KINDS:
        return {"cp_kind": token[3:]}
    if (widths := _sharding(token)) is not None:
        return widths
    match = re.fullmatch(r"([a-z]+)(\d+)", token)
    if match and match[1] in DEGREES:
        return {match[1]: int(match[2])}
    raise BadLayout(
        f"layout token {token!r} is not understood{offer(token, (*DEGREES, *PRESETS))}; write for example"
        " 'tp8 sp1 cp1 pp8 vpp8 ep1 etp1 dp16 mbs1 zero1 rc=none'"
    )


def _bounded(token: str, name: str, value: int) -> None:
    low, high = {"sp": (0, 1)}.get(name, (1 if name in DEGREES else 0, MOST))
    if not low <= value <= high:
        limits = "0 or 1" if name == "sp" else f"between {low} and {high}"
        raise BadLayout(f"layout token {token!r}: {name.replace('_', ' ')} must be {limits}")


def parse_tokens(text: str) -> dict[str, Any]:
    """Layout fields named by the tokens of `text`, each checked by itself."""
    fields: dict[str, Any] = {}
    for token in text.split():
        for name, value in _token(token).items():
            if name in fields and fields[name] != value:
                raise BadLayout(f"layout {text!r} gives {name} twice ({fields[name]} and {value})")
            if isinstance(value, int):
                _bounded(token, name, value)
            fields[name] = value
    return fields
