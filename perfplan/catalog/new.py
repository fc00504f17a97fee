"""Accelerators that are measured: those of the catalog, and new ones from the few facts that no kernel tells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from perfplan.catalog import Catalog, build, schemas
from perfplan.catalog.files import packaged_root
from perfplan.catalog.specs import Accelerator
from perfplan.errors import MissingField, OutOfRange, UnknownName

__all__ = ["NewAccelerator", "example_measurements", "measured_accelerator"]


@dataclass(frozen=True)
class NewAccelerator:
    """What must be said of an accelerator that no catalog has: texts with units. peaks: "bf16=800 TFLOP/s", dense;
    like: the accelerator whose links, and whose kernel constants until they are measured, it uses."""

    peaks: Sequence[str] = ()
    bandwidth: str = ""
    memory: str = ""
    like: str = ""

    @property
    def given(self) -> list[str]:
        """Options that were given."""
        return [option for option, value in self._options() if value]

    @property
    def missing(self) -> list[str]:
        """Options that were not."""
        return [option for option, value in self._options() if not value]

    def _options(self) -> list[tuple[str, Any]]:
        return [("--peak", self.peaks), ("--bandwidth", self.bandwidth), ("--memory", self.memory),
                ("--like", self.like)]


def measured_accelerator(
    catalog: Catalog, name: str, facts: NewAccelerator, date: str
) -> tuple[Accelerator, dict[str, Any]]:
    """Spec and raw entry of the accelerator `name`: the catalog's, else a new one from `facts`.

    Raises UnknownName saying what a new one needs, OutOfRange when facts are given of one that is known.
    """
    try:
        chip = catalog.accelerator(name)
    except UnknownName as error:
        if not facts.given:
            known = str(error).rstrip(" .")
            raise UnknownName(f"{known}; a new one needs its data sheet too: --peak 'bf16=800 TFLOP/s'"
                              " --bandwidth '4 TB/s' --memory '80 GiB' --like h100-sxm (whose links, and constants not"
                              " measured yet, it uses)") from None
        if facts.missing:
            raise MissingField(f"{name} is not in the catalog and needs {', '.join(facts.missing)} too") from None
        entry = _entry(catalog, name, facts, f"given to perfplan calibrate, {date}")
        file = build.check(schemas.AcceleratorFile, entry, f"the new accelerator {name}")
        return build.accelerator(name, file, catalog.accelerator), entry
    if facts.given:
        raise OutOfRange(f"{', '.join(facts.given)} describe a new accelerator and {chip.id} is in the catalog; leave"
                         " them out, or give it another --accelerator name")
    return chip, catalog.raw("accelerator", chip.id)[0]


def example_measurements() -> str:
    """A CSV table of what the measuring script writes, of a chip called my-chip."""
    return (packaged_root() / "measurements" / "example_chip.csv").read_text(encoding="utf-8")


def _entry(catalog: Catalog, name: str, facts: NewAccelerator, source: str) -> dict[str, Any]:
    pairs = [peak.partition("=") for peak in facts.peaks]
    if bad := [peak for peak, (_, equals, _) in zip(facts.peaks, pairs, strict=True) if not equals]:
        raise OutOfRange(f"--peak {bad[0]!r} is not of the form FORMAT=RATE, such as 'bf16=800 TFLOP/s'")
    peaks = {dtype.strip(): rate.strip() for dtype, _, rate in pairs}
    relative, raw = catalog.accelerator(facts.like), catalog.raw("accelerator", facts.like)[0]
    same = {dtype: other for dtype, other in (raw.get("same_constants") or {}).items() if dtype in peaks}
    entry: dict[str, Any] = {"id": name, "name": name, "vendor": relative.vendor, "family": relative.family,
             "memory": facts.memory, "memory_bandwidth": facts.bandwidth, "peak": peaks, "borrow": relative.id,
             "same_constants": same, "default_cluster": relative.default_cluster,
             "sources": dict.fromkeys(("memory", "memory_bandwidth", *(f"peak.{one}" for one in peaks)), source)}
    for fact in (one for one in ("units", "l2") if one in raw):  # of the relative, which decode attention needs
        entry[fact], entry["sources"][fact] = raw[fact], f"taken to be that of {relative.id}"
    return {key: value for key, value in entry.items() if value}
