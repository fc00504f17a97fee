"""From checked files to frozen specs, and from pydantic's errors to one sentence each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel, ValidationError

from perfplan.catalog import schemas, specs
from perfplan.catalog.constants import plain_dtype
from perfplan.errors import BadQuantity, CatalogError, MissingField, UnknownName, offer

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

__all__ = ["UNBOUNDED", "accelerator", "check", "cluster", "engine", "framework", "kernels_of", "library", "optimizer",
           "recipe"]

UNBOUNDED = 1 << 20  # an outermost level that states no size has about so many: more than any machine
_File = TypeVar("_File", bound=BaseModel)


def check(schema: type[_File], data: Mapping[str, Any], where: str) -> _File:
    """`data` read by `schema`; raises the first fault as one sentence that starts with `where` (file or setting)."""
    try:
        return schema.model_validate(data)
    except ValidationError as error:
        raise _fault(schema, error.errors()[0], where) from None


def _fault(schema: type[BaseModel], fault: ErrorDetails, where: str) -> CatalogError:
    path = ".".join(str(step) for step in fault["loc"])
    spot = f"{where}: {path}" if path else where
    kind = fault["type"]
    if kind == "missing":
        return MissingField(f"{spot} is missing; a catalog entry must state it")
    if kind == "extra_forbidden":
        name = str(fault["loc"][-1])
        return UnknownName(f"{spot} is not a known field{offer(name, _fields_at(schema, fault['loc'][:-1]))}")
    if kind in ("bad_quantity", "absurd"):
        return BadQuantity(f"{spot}: {fault['msg']}")
    if kind == "literal_error" and fault["loc"][-1:] == ("[key]",):
        return UnknownName(f"{spot.removesuffix('.[key]')} is not known: use {fault.get('ctx', {}).get('expected')}")
    return CatalogError(f"{spot}: {_sentence(fault)}")


def _sentence(fault: ErrorDetails) -> str:
    message = fault["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
    given = "" if isinstance(fault["input"], (dict, BaseModel)) else f"{fault['input']!r} will not do: "
    wanted = f"it must be {message}" if fault["msg"].startswith("Input should be") else message
    return f"{given}{wanted}"


def _fields_at(schema: type[BaseModel], path: Iterable[int | str]) -> list[str]:
    parts: dict[str, type[BaseModel]] = {"kernels": schemas.KernelFile, "levels": schemas.LevelFile,
                                         "tuner": schemas.TunerFile}
    if schema is schemas.LibraryFile:
        parts["kernels"] = schemas.ExchangeFile
    first = next(iter(path), None)
    return list(parts.get(str(first), schema).model_fields)


def kernels_of(file: schemas.AcceleratorFile) -> dict[str, dict[str, specs.Kernel]]:
    """The kernel constants that a file states itself: kind -> dtype -> constants."""
    return {kind: {dtype: specs.Kernel(**kernel.model_dump()) for dtype, kernel in table.items()}
            for kind, table in file.kernels.items()}


def accelerator(name: str, file: schemas.AcceleratorFile, relative: Callable[[str], specs.Accelerator],
                notes: tuple[str, ...] = ()) -> specs.Accelerator:
    """The spec of a file; kernel kinds and dtypes it lacks come from `relative(file.borrow)`, marked borrowed."""
    kernels = kernels_of(file)
    _fill(kernels, file)
    lent = {}
    if file.borrow:
        lender = relative(file.borrow)
        _borrow(kernels, file, lender)
        _fill(kernels, file)
        lent = _lent(kernels, file, lender)
    plain = file.model_dump(exclude={"id", "kernels", "borrow", "same_constants", "notes"})
    return specs.Accelerator(id=name, kernels=kernels, lent=lent, notes=(*file.notes, *notes), **plain)


def _lent(kernels: Mapping[str, Mapping[str, specs.Kernel]], file: schemas.AcceleratorFile,
          lender: specs.Accelerator) -> dict[str, float]:
    """What whole steps reach of a borrowed rate of products: the share that they sustain over that of the lender."""
    def lasts(table: Mapping[str, float], dtype: str) -> float:
        return table.get(dtype, table.get("any", 1.0))

    borrowed = [dtype for dtype, kernel in kernels.get("gemm", {}).items() if kernel.borrowed == lender.id]
    return {dtype: min(lasts(file.sustained, dtype) / lasts(lender.sustained, dtype), 1.0)
            for dtype in borrowed if file.sustained}


def _borrow(kernels: dict[str, dict[str, specs.Kernel]], file: schemas.AcceleratorFile,
            relative: specs.Accelerator) -> None:
    for kind, table in relative.kernels.items():
        own = kernels.setdefault(kind, {})
        stated = {*own, "any"} if "any" in own else set(own)
        for dtype, kernel in table.items():
            plain = plain_dtype(dtype)
            known = plain in (*file.peak, "any") or kind == "attention_decode"  # a cache may have a format of its own
            known |= plain == "int4" and bool({"fp16", "bf16"} & set(file.peak))  # weights alone, products in 16 bits
            if known and not {dtype, plain, "any"} & stated:
                half = kernel.half * _ridge_ratio(plain, file, relative) if kind == "experts" else kernel.half
                own[dtype] = replace(kernel, half=half, borrowed=kernel.borrowed or relative.id)
        if not own:
            del kernels[kind]


def _ridge_ratio(dtype: str, file: schemas.AcceleratorFile, relative: specs.Accelerator) -> float:
    """FLOPs per byte at which compute and memory take equal time, over those of the relative.

    The rows that fill up the tiles of experts follow it: on H100, H200, B200 and A100 they take 0.65 to 1.1 of the time
    in which the experts' weights are read, because kernels choose tiles for which reading binds at few rows.
    """
    if dtype not in file.peak or dtype not in relative.peak:
        return 1.0
    return (file.peak[dtype] / file.memory_bandwidth) / (relative.peak[dtype] / relative.memory_bandwidth)


def _fill(kernels: dict[str, dict[str, specs.Kernel]], file: schemas.AcceleratorFile) -> None:
    """Give dtypes without constants those of the dtype that the file says is the same, else those of `any`."""
    for table in kernels.values():
        stated = dict(table)
        for dtype in file.peak:
            origin = _origin(dtype, stated, file.same_constants)
            if origin and dtype not in stated:
                table[dtype] = replace(stated[origin], source=f"as {origin}: {stated[origin].source}")


def _origin(dtype: str, stated: Mapping[str, specs.Kernel], same: Mapping[str, str]) -> str:
    seen: list[str] = []
    while dtype not in stated and dtype in same and dtype not in seen:
        seen.append(dtype)
        dtype = same[dtype]
    return dtype if dtype in stated else "any" if "any" in stated else ""


def cluster(name: str, file: schemas.ClusterFile, chip: specs.Accelerator, collectives: specs.Library,
            notes: tuple[str, ...] = (), dispatcher: specs.Library | None = None) -> specs.Cluster:
    """The spec of a cluster file with its accelerator and libraries already loaded."""
    plain = file.model_dump(exclude={"id", "accelerator", "library", "dispatcher", "levels", "notes"})
    below = file.levels[-2].size if len(file.levels) > 1 else None
    machine = file.size or (below or 1) * (UNBOUNDED // (below or 1))
    levels = tuple(_level(level, machine) for level in file.levels)
    return specs.Cluster(id=name, accelerator=chip, library=collectives, levels=levels, notes=(*file.notes, *notes),
                         dispatcher=dispatcher, **plain)


def _level(file: schemas.LevelFile, machine: int) -> specs.Level:
    plain = file.model_dump(exclude={"size", "efficiency", "operations"})
    efficiency = tuple(sorted(file.efficiency.items()))
    operations = {str(name): tuple(sorted(table.items())) for name, table in file.operations.items()}
    return specs.Level(size=file.size or machine, efficiency=efficiency, operations=operations, **plain)


def library(name: str, file: schemas.LibraryFile) -> specs.Library:
    """The spec of a collective library."""
    plain = file.model_dump(exclude={"id", "algorithms", "tuner", "kernels", "notes"})
    tuner = {algorithm: (t.base, t.intra, t.inter, t.bandwidth) for algorithm, t in file.tuner.items()}
    algorithms = {str(operation): names for operation, names in file.algorithms.items()}
    kernels = {chip: {algorithm: _exchange(one) for algorithm, one in table.items()}
               for chip, table in file.kernels.items()}
    return specs.Library(id=name, algorithms=algorithms, tuner=tuner, kernels=kernels, **plain)


def _exchange(file: schemas.ExchangeFile) -> specs.Exchange:
    return specs.Exchange(efficiency=tuple(sorted(file.efficiency.items())), **file.model_dump(exclude={"efficiency"}))


def recipe(name: str, file: schemas.RecipeFile) -> specs.Recipe:
    """The spec of a precision recipe."""
    return specs.Recipe(id=name, **file.model_dump(exclude={"id", "notes"}))


def optimizer(name: str, file: schemas.OptimizerFile) -> specs.Optimizer:
    """The spec of an optimizer."""
    return specs.Optimizer(id=name, **file.model_dump(exclude={"id", "notes"}))


def framework(name: str, file: schemas.FrameworkFile) -> specs.Framework:
    """The spec of a training framework."""
    known = {release: {where: specs.Release(**factor.model_dump()) for where, factor in table.items()}
             for release, table in file.releases.items()}
    return specs.Framework(id=name, **file.model_dump(exclude={"id", "notes", "releases"}), releases=known)


def released(framework: specs.Framework, release: str) -> specs.Framework:
    """The framework in one of its known releases."""
    if release not in framework.releases:
        raise UnknownName(f"framework {framework.id} has no release {release!r}{offer(release, framework.releases)}")
    return replace(framework, release=release)


def engine(name: str, file: schemas.EngineFile, release: str, chip: tuple[str, str],
           kernels: specs.Library) -> specs.Engine:
    """The spec of a release of an engine on a chip (family, id): what the engine has in general, then what its family
    and the chip change, then the release with the longest name that `release` begins with, alone and for them, after
    the release that it is said to be the same as."""
    plain = file.model_dump(exclude={"id", "releases", "families", "source", "notes"})
    known = [key for key in file.releases if "/" not in key and release.startswith(key)]
    best = max(known, key=len, default="")
    known_as = (file.releases[best].same if best else None) or ""
    if known_as and known_as not in file.releases:
        raise UnknownName(f"release {best} of engine {name} is said to be the same as {known_as!r}, which it does not"
                          f" have{offer(known_as, file.releases)}")
    applied = [*map(file.families.get, chip), *(
        file.releases.get(key) for name in (known_as, best) for key in (name, *(f"{name}/{one}" for one in chip)))]
    sources, notes = [file.source], list(file.notes)
    for fields in filter(None, applied):
        plain |= {key: value for key, value in fields.model_dump(exclude={"same", "source", "notes"}).items()
                  if value is not None}
        sources += [fields.source] if fields.source else []
        notes += fields.notes
    if release and not best:
        notes.append(f"release {release} of {file.name} has no constants of its own; those of the engine are used")
    return specs.Engine(id=f"{name}-{best}" if best else name, kernels=kernels, source="; ".join(sources),
                        notes=tuple(notes), **plain)
