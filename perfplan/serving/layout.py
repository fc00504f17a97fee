"""Layouts of a serving instance and their grammar: `tp8 pp1 ep8 adp2 dcp1 dp1`; which of them a model allows."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

from perfplan.catalog.specs import Attention, LinearAttention, Mamba, Mlp, Model, Moe
from perfplan.errors import BadLayout, Indivisible, offer

__all__ = ["DEGREES", "ServingLayout", "broken", "check", "legal"]

DEGREES = ("tp", "pp", "ep", "adp", "dcp", "dp")
_ALIASES = {"attention-dp": "adp", "attention_dp": "adp", "replicas": "dp"}
MOST = 1 << 14


@dataclass(frozen=True)
class ServingLayout:
    """tp: ranks that split the heads; pp: stages; adp: attention data parallelism, groups of tp ranks with sequences of
    their own that share the experts; ep: groups that the experts are spread over, out of tp*adp ranks (the rest splits
    each expert); dcp: ranks of a tp group that share the cache of a sequence; dp: independent replicas."""

    tp: int = 1
    pp: int = 1
    ep: int = 1
    adp: int = 1
    dcp: int = 1
    dp: int = 1

    @property
    def width(self) -> int:
        """Ranks of one stage."""
        return self.tp * self.adp

    @property
    def instance(self) -> int:
        """Accelerators of one replica."""
        return self.tp * self.adp * self.pp

    @property
    def world(self) -> int:
        """Accelerators of all replicas."""
        return self.instance * self.dp

    @property
    def etp(self) -> int:
        """Ranks that split one expert."""
        return max(self.width // self.ep, 1)

    @classmethod
    def parse(cls, text: str) -> ServingLayout:
        """The layout written as tokens; what is not named is 1.

        >>> str(ServingLayout.parse("tp4 ep8 attention-dp2"))
        'tp4 ep8 adp2'
        """
        found: dict[str, int] = {}
        for token in text.replace(",", " ").split():
            match = re.fullmatch(r"([a-z_-]+?)=?(\d+)", token)
            name = _ALIASES.get(match[1], match[1]) if match else ""
            if match is None or name not in DEGREES:
                raise BadLayout(f"layout token {token!r} is not understood{offer(token, (*DEGREES, *_ALIASES))}; write"
                                " for example 'tp4 pp1 ep1 adp1 dp1'")
            if not 1 <= int(match[2]) <= MOST:
                raise BadLayout(f"layout token {token!r}: {name} must be between 1 and {MOST}")
            if found.setdefault(name, int(match[2])) != int(match[2]):
                raise BadLayout(f"layout {text!r} gives {name} twice")
        return replace(cls(), **found)

    def __str__(self) -> str:
        """The tokens that are not 1; tp always."""
        return " ".join(f"{name}{getattr(self, name)}" for name in DEGREES if name == "tp" or getattr(self, name) > 1)


def _split(model: Model) -> Iterator[tuple[str, int]]:
    """What tensor parallelism must divide."""
    for kind in model.kinds:
        match kind.mixer:
            case Attention() as a:
                yield "attention heads", a.heads
            case Mamba() as a:
                yield "Mamba heads", a.heads
            case LinearAttention() as a:
                yield "linear-attention heads", a.v_heads
        if isinstance(kind.ffn, Mlp):
            yield "MLP width", kind.ffn.width


def broken(model: Model, layout: ServingLayout) -> list[str]:
    """Why the model cannot run so, one reason per broken rule."""
    reasons = [f"tp={layout.tp} does not divide the {what} ({size})"
               for what, size in sorted(set(_split(model))) if size % layout.tp]
    for heads in sorted({k.mixer.kv_heads for k in model.kinds
                         if isinstance(k.mixer, Attention) and not k.mixer.kv_lora_rank}):
        if heads % layout.tp and layout.tp % heads:
            reasons.append(f"tp={layout.tp} neither divides nor is a multiple of the {heads} key-value heads")
    experts = {k.ffn.experts for k in model.kinds if isinstance(k.ffn, Moe)}
    if not experts and (layout.ep > 1 or layout.adp > 1):
        reasons.append("ep and adp need a mixture of experts")
    if layout.width % layout.ep:
        reasons.append(f"ep={layout.ep} does not divide the tp*adp={layout.width} ranks of a stage")
    reasons += [f"ep={layout.ep} does not divide the {n} experts" for n in sorted(experts) if n % layout.ep]
    reasons += [f"{layout.etp} ranks per expert do not divide its width {w}" for w in sorted(
        {k.ffn.width for k in model.kinds if isinstance(k.ffn, Moe)}) if w % layout.etp]
    if layout.pp > len(model.layers):
        reasons.append(f"pp={layout.pp} is more than the {len(model.layers)} layers")
    if layout.tp % layout.dcp:
        reasons.append(f"dcp={layout.dcp} does not divide tp={layout.tp}")
    return reasons


def check(model: Model, layout: ServingLayout) -> None:
    """Raise Indivisible, in one sentence, if the model cannot run so."""
    if reasons := broken(model, layout):
        raise Indivisible(f"layout {str(layout)!r} cannot run {model.id}: {'; '.join(reasons)}")


def _divisors(number: int) -> list[int]:
    return [d for d in range(1, number + 1) if number % d == 0]


def legal(model: Model, gpus: int) -> list[ServingLayout]:
    """Every layout of exactly `gpus` accelerators that the model allows, replicas included."""
    found = []
    routed = model.routed
    for tp in _divisors(gpus):
        for pp in _divisors(gpus // tp):
            for adp in _divisors(gpus // (tp * pp)) if routed else [1]:
                for ep in sorted({1, tp * adp}) if routed else [1]:
                    layout = ServingLayout(tp, pp, ep, adp, 1, gpus // (tp * pp * adp))
                    if not broken(model, layout):
                        found.append(layout)
    return found
