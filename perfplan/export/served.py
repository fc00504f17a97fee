"""A serving launch line as the arguments of an estimate: model, layout, formats and limits of the engine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from perfplan.catalog import Catalog
from perfplan.catalog.specs import Engine, Model
from perfplan.errors import BadLayout, SpecError, UnknownName
from perfplan.export.launchers import Facts, Flag, Launcher, launcher
from perfplan.export.line import Line, read_line
from perfplan.placement.skew import skewed
from perfplan.serving.deploy import serving_job
from perfplan.serving.formats import number_format
from perfplan.serving.job import ServingJob
from perfplan.serving.layout import ServingLayout
from perfplan.serving.plan import ServePlan, beaten
from perfplan.serving.words import ENGINE

__all__ = ["Served", "against", "planned_terms", "served", "served_job"]

_BY_NAME = (("-nvfp4", "nvfp4"), ("-fp4", "nvfp4"), ("-fp8", "fp8"), ("-awq", "int4"), ("-gptq-int4", "int4"))
"""How the names of quantised checkpoints on the hub end."""
_PLAIN = ("bf16", "fp16", "fp32")
_ALL_RANKS = ("deepep", "mooncake")
"""Dispatchers with which SGLang spreads the experts over all ranks of a stage."""


@dataclass(frozen=True)
class Served:
    """What a serving launch line asks for. model: as it names it; weights, kv: number formats, "" = the checkpoint's
    own and 16 bits; memory_fraction, max_batch, token_budget: of the engine, None = its own; length: most tokens of a
    request, 0 = it does not say; role: prefill or decode; caveats: what it says that is not priced so."""

    launcher: Launcher
    line: Line
    model: str
    layout: ServingLayout
    weights: str
    kv: str
    memory_fraction: float | None
    max_batch: int | None
    token_budget: int | None
    length: int
    role: str
    caveats: tuple[str, ...]

    @property
    def limits(self) -> dict[str, float | int]:
        """The engine's limits that the line sets."""
        said = {"memory_fraction": self.memory_fraction, "max_batch": self.max_batch,
                "token_budget": self.token_budget}
        return {name: value for name, value in said.items() if value is not None}

    def agreed(self, given: str, said: str, option: str) -> str:
        """The value of an option: as given, else as the line says; two that differ are an error."""
        if given and said and given != said and (option == "--kv" or number_format(given) != number_format(said)):
            raise SpecError(f"{option} {given} contradicts the {self.launcher.id} line, which says {said}; drop one")
        return given or said

    def engine(self, given: str) -> str:
        """The engine to price: the line's own, or one of its releases."""
        mine = self.launcher.engine
        if given and given.partition("-")[0] != mine:
            raise SpecError(f"--engine {given} contradicts the {self.launcher.id} line; give {mine}, a release"
                            " of it, or none")
        return given or mine

    def layout_of(self, given: str) -> ServingLayout:
        """The layout, which must be the line's where one is given."""
        if given and ServingLayout.parse(given) != self.layout:
            raise SpecError(f"--layout {given!r} contradicts the {self.launcher.id} line, which says"
                            f" {str(self.layout)!r}; drop one")
        return self.layout

    def applied(self, job: ServingJob, length: int) -> ServingJob:
        """The job with the engine's limits of the line; length: tokens of a request."""
        if 0 < self.length < length:
            raise SpecError(f"requests of {length} tokens exceed the {self.length} that the {self.launcher.id} line"
                            " allows; shorten --isl or --osl, or raise its limit")
        engine: Engine = replace(job.engine, **self.limits)  # type: ignore[arg-type]
        return replace(job, engine=engine, caveats=(*job.caveats, *self.caveats))


def served_job(
    model: str,
    cluster: str,
    layout: str,
    read: Served | None,
    catalog: Catalog,
    *,
    length: int,
    engine: str = "",
    weights: str = "",
    kv: str = "",
    routing: str = "",
    routing_skew: float = 1.0,
    **settings: Any,
) -> tuple[ServingJob, ServingLayout]:
    """(job, layout) of these names and of the launch line `read`, which they must not contradict. length: tokens of a
    request."""
    if not read and not (model and layout):
        raise SpecError("there is no MODEL or no --layout; give both, or a launch line with --from")
    parsed = read.layout_of(layout) if read else ServingLayout.parse(layout)
    if read:
        model, engine = model or read.model, read.engine(engine)
        weights, kv = read.agreed(weights, read.weights, "--weights"), read.agreed(kv, read.kv, "--kv")
    table, words = skewed(catalog.model(model), routing, routing_skew)
    job = serving_job(model, cluster, catalog, engine=engine or ENGINE, weights=weights, kv=kv, caveats=words,
                      routing_skew=routing_skew, skews=table, **settings)
    return (read.applied(job, length) if read else job), parsed


def planned_terms(model: str, read: Served | None, engine: str, weights: str, kv: Sequence[str]
                  ) -> tuple[str, dict[str, Any]]:
    """(model, arguments of a plan): as given, else as the launch line says, else the usual ones."""
    if read is None and not model:
        raise SpecError("no model is named; give a catalog id, the path of a config.json, or a launch line with --from")
    if read is None:
        return model, {"engine": engine or ENGINE, "weights": weights, "kv": tuple(kv)}
    own = (read.kv,) if read.kv else ()
    return model or read.model, {"engine": read.engine(engine), "kv": tuple(kv) or own,
                                 "weights": read.agreed(weights, read.weights, "--weights")}


def against(found: ServePlan, read: Served) -> ServePlan:
    """The plan with the deployment of the launch line as its baseline, under the line's own limits."""
    job = read.applied(replace(found.job, kv=read.kv or "bf16"), 0)
    longest = found.workload.isl.longest + found.workload.osl.longest
    cut = (f"the {read.launcher.id} line refuses requests beyond {read.length} tokens; those of the workload have up to"
           f" {longest:.0f}, and its instances are priced with all",) if 0 < read.length < longest else ()
    own = beaten(found, job, read.layout, read.launcher.name)
    return replace(own, caveats=(*own.caveats, *read.caveats, *cut))


def served(catalog: Catalog, name: str, text: str, *, model: str = "") -> Served:
    """Read the launch line `text` of the engine `name`. model: catalog entry that the line must agree with, "" = it
    names its own."""
    table = launcher(catalog, name, "serving")
    line = read_line(table, text)
    named, words = _named(table, line)
    line = replace(line, words=words)
    spec, taken = _spec(catalog, table, named, model)
    routed = spec.routed
    layout, remarks = _layout(table, line.facts, routed)
    weights, more = _weights(table, line.facts, spec, named)
    unread = [f"{flag} of the launch line: {says}" for flag, says in line.unmodelled]
    unread += [f"{flag} of the launch line was not understood and is ignored" for flag, _ in line.unknown]
    facts = line.facts
    unread += [f"role {facts['role']} of the launch line: one pool of both is priced"] if "role" in facts else []
    own = _count(facts, "sequences", _count(facts, "all_sequences") // layout.adp)
    budget = _count(facts, "token_budget", _count(facts, "all_token_budget") // layout.adp)
    for fact, value in (("all_sequences", own), ("all_token_budget", budget)):
        if fact in facts and not value:
            raise SpecError(f"{_flag(table, fact).name} {facts[fact]} of the {table.id} line is less than one for each"
                            f" of {layout.adp} attention ranks; raise it")
    return Served(table, line, model or named, layout, weights, str(facts.get("kv", "")), _fraction(table, facts),
                  own or None, budget or None, _count(facts, "length", _count(facts, "longest")),
                  str(facts.get("role", "")), (*taken, *remarks, *more, *unread))


def _count(facts: Facts, name: str, otherwise: int = 0) -> int:
    value = facts.get(name, otherwise)
    return value if isinstance(value, int) else otherwise


def _flag(table: Launcher, fact: str) -> Flag:
    return next(row for row in table.flags if row.fact == fact)


# ---------------------------------------------------------------- model
def _named(table: Launcher, line: Line) -> tuple[str, tuple[str, ...]]:
    """(model that the line names, "" if none; words that are neither it nor the command)."""
    commands = [place for place, word in enumerate(line.words) if word.rpartition("/")[2] in table.commands]
    after = line.words[commands[-1] + 1 :] if commands else line.words
    before = tuple(word for place, word in enumerate(line.words[: commands[-1]] if commands else ())
                   if place not in commands and word not in ("python", "python3", "-m"))
    flagged = str(line.facts.get("model", ""))
    if flagged and after and commands:
        raise SpecError(f"the {table.id} line names the model {after[0]} and the model {flagged}; keep one of them")
    return (flagged, before + after) if flagged else (after[0] if after else "", before + after[1:])


def _spec(catalog: Catalog, table: Launcher, named: str, given: str) -> tuple[Model, tuple[str, ...]]:
    """(the model, caveats): MODEL stands for what the line names and nobody knows here, such as a server's folder."""
    if not named and not given:
        raise SpecError(f"the {table.id} line names no model; write it into the line or give MODEL")
    if named.startswith("$"):
        raise SpecError(f"the {table.id} line has the shell variable {named} for its model; write its value")
    spec = catalog.model(given or named)
    try:
        same = not (given and named) or catalog.model(named) == spec
    except UnknownName:
        return spec, (f"the {table.id} line serves {named}, which is taken to be {given}",)
    if not same:
        raise SpecError(f"MODEL {given} contradicts the {table.id} line, which serves {named}; drop one")
    return spec, ()


def _weights(table: Launcher, facts: Facts, spec: Model, named: str) -> tuple[str, list[str]]:
    """(number format of the weights, "" = the checkpoint's own; caveats)."""
    said = str(facts.get("quantization", ""))
    if said:
        if said not in _flag(table, "quantization").reads.values():
            return "", [f"--quantization {said} of the launch line: the weights are priced in {spec.dtype}"]
        return ("" if spec.dtype.startswith(said) else said), []
    for ending, form in _BY_NAME:
        if named.lower().endswith(ending) and not spec.dtype.startswith(form):
            return form, [f"weights in {form}, by the name of the checkpoint {named}"]
    dtype = str(facts.get("dtype", ""))
    return (dtype if dtype and spec.dtype in _PLAIN and dtype != spec.dtype else ""), []


# ---------------------------------------------------------------- layout and limits
def _layout(table: Launcher, facts: Facts, routed: bool) -> tuple[ServingLayout, list[str]]:
    """(layout, caveats): data parallelism shares the experts where the engine lets it, and is replicas elsewhere."""
    pp, dp = _count(facts, "pp", 1), _count(facts, "adp", 1)
    if "heads_tp" in {row.fact for row in table.flags}:
        tp, adp, replicas = _count(facts, "heads_tp", 1), (dp if routed else 1), (1 if routed else dp)
    else:
        width = _count(facts, "width", 1)
        adp = width if facts.get("all_attention_dp") else dp if facts.get("attention_dp") else 1
        replicas = dp if adp == 1 and not facts.get("attention_dp") else 1
        if width % adp:
            raise BadLayout(f"{adp} groups of attention do not divide the {width} ranks of the {table.id} line; choose"
                            f" sizes that do")
        tp = width // adp
    ep, remarks = _experts(table, facts, tp * adp, routed)
    layout = ServingLayout(tp, pp, ep, adp, _count(facts, "dcp", 1), replicas)
    return ServingLayout.parse(" ".join(f"{name}{size}" for name, size in vars(layout).items())), remarks


def _experts(table: Launcher, facts: Facts, width: int, routed: bool) -> tuple[int, list[str]]:
    """(groups that the experts are spread over, caveats)."""
    spread = facts.get("experts_apart") or facts.get("a2a") in _ALL_RANKS
    via = facts.get("a2a")
    remarks = [f"{via} of the launch line: dispatch is priced by the cluster's dispatcher"] if via else []
    if not routed:
        return 1, remarks + ["experts of the launch line: the model has none"] * bool(spread or "ep" in facts)
    ep = width if spread else _count(facts, "ep", 1)
    etp = _count(facts, "etp", width // ep)
    if ep * etp != width or ("ep" in facts and facts["ep"] != ep):
        raise BadLayout(f"experts over {facts.get('ep', ep)} groups of {etp} ranks do not make up the {width} ranks of"
                        f" the {table.id} line; choose sizes that do")
    return ep, remarks


def _fraction(table: Launcher, facts: Facts) -> float | None:
    fact = "memory" if "memory" in facts else "memory_fraction"
    if fact not in facts:
        return None
    try:
        value = float(str(facts[fact]))
    except ValueError:
        value = 0.0
    if not 0 < value <= 1:
        raise SpecError(f"{_flag(table, fact).name} {facts[fact]} of the {table.id} line is no fraction above 0 and at"
                        " most 1; write one such as 0.9")
    return value
