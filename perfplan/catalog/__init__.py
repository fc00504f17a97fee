"""The catalog: YAML files in, frozen specs out. Loads only what is asked for.

    catalog = Catalog(settings=("accelerator.memory=96GiB",))
    catalog.cluster("dgx-h100").accelerator.memory

An id is a file name. User folders (--catalog) are searched before the shipped files and win on purpose.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from perfplan.catalog import files
from perfplan.catalog.settings import Setting, apply, read_settings
from perfplan.errors import CatalogError, MissingField, UnknownName, offer

if TYPE_CHECKING:
    from perfplan.calibration.bands import Bands
    from perfplan.catalog.specs import Accelerator, Cluster, Engine, Framework, Library, Model, Optimizer, Recipe
    from perfplan.catalog.workloads import Workload

__all__ = ["Catalog"]


class Catalog:
    """Looks entries up by id, with user folders and settings applied.

    folders: user catalogs, each with subfolders such as `accelerators/`; settings: texts "kind.field=value".
    """

    def __init__(self, folders: Iterable[str | Path] = (), settings: Iterable[str] = ()) -> None:
        self.roots = files.roots(tuple(folders))
        self.settings: tuple[Setting, ...] = read_settings(settings)
        self._used: set[Setting] = set()
        self._cache: dict[tuple[str, str], Any] = {}
        self._aliases: dict[str, dict[str, str]] | None = None
        self._lenders: tuple[str, ...] = ()

    # ------------------------------------------------------------ names and raw data
    def ids(self, kind: str) -> list[str]:
        """Sorted ids of a kind ("accelerator", "cluster", "model", "recipe", "framework", "optimizer", "library",
        "technique", "launcher")."""
        singular = {plural: name for name, plural in files.FOLDERS.items()}
        return files.known_ids(self.roots, singular.get(kind, kind))

    def aliases(self, kind: str) -> Mapping[str, str]:
        """Other names of a kind: alias -> id."""
        if self._aliases is None:
            self._aliases = {}
            for root in reversed(self.roots):
                if (path := root / "aliases.yaml").is_file():
                    for name, table in files.read_yaml(path).items():
                        self._aliases.setdefault(name, {}).update(table)
        return self._aliases.get(kind, {})

    def resolve(self, kind: str, name: str) -> str:
        """The id that `name` stands for: itself if it is one, else what its alias says. Raises UnknownName."""
        try:
            files.find(self.roots, kind, name)
        except UnknownName:
            if name in self.aliases(kind):
                return self.aliases(kind)[name]
            hint = files.misnamed(self.roots, kind, name) or offer(name, [*self.ids(kind), *self.aliases(kind)])
            raise UnknownName(f"there is no {kind} {name!r}{hint}") from None
        return name

    def hardware(self, name: str) -> str:
        """The accelerator id that the hardware name of a measurement stands for; an unknown name stays as it is."""
        from perfplan.catalog.spelling import accelerator_named, sized

        ids = self.ids("accelerator")
        known = [*ids, *self.aliases("accelerator")]
        found = name if name in known else accelerator_named(name, known)
        return sized(name, self.resolve("accelerator", found), ids) if found else name

    def served_model(self, name: str) -> str:
        """The model id that the model name of a measurement stands for; an unknown name stays as it is."""
        from perfplan.catalog.spelling import model_named

        if name in self.ids("model") or name in self.aliases("model"):
            return name
        known: dict[str, str] = self._once("spelling", "model", lambda: {**self._hub_names(), **{
            id_: id_ for id_ in self.ids("model")}, **self.aliases("model")})
        return model_named(name, known) or name

    def source(self, kind: str, name: str) -> Path:
        """The file that holds an entry."""
        return files.find(self.roots, kind, self.resolve(kind, name))

    def raw(self, kind: str, name: str, fields: Iterable[str] = ()) -> tuple[dict[str, Any], str]:
        """An entry's mapping with the settings of its kind written in, and what to call it in messages."""
        path = self.source(kind, name)
        data, mine = files.read_yaml(path), [s for s in self.settings if s.kind == kind]
        self._used.update(mine)
        where = str(path) + (f" with {' '.join(map(str, mine))}" if mine else "")
        return apply(data, mine, tuple(fields)), where

    def unused_settings(self) -> tuple[str, ...]:
        """Settings that no entry asked for so far; whoever is done loading must refuse them."""
        return tuple(str(s) for s in self.settings if s not in self._used)

    def _notes(self, kind: str) -> tuple[str, ...]:
        return tuple(f"set by the user: {s}" for s in self.settings if s.kind == kind)

    def _read(self, kind: str, name: str) -> tuple[str, Any]:
        from perfplan.catalog import build, schemas

        schema = schemas.SCHEMAS[kind]
        data, where = self.raw(kind, name, schema.model_fields)
        return self.resolve(kind, name), build.check(schema, data, where)

    def _once(self, kind: str, name: str, make: Any) -> Any:
        if (kind, name) not in self._cache:
            self._cache[kind, name] = make()
        return self._cache[kind, name]

    # ------------------------------------------------------------ specs
    def accelerator(self, name: str) -> Accelerator:
        """The accelerator `name`; kernel constants it lacks are borrowed from its relative and marked so."""
        found: Accelerator = self._once("accelerator", name, lambda: self._accelerator(name))
        return found

    def _accelerator(self, name: str) -> Accelerator:
        from perfplan.catalog import build

        id_, file = self._read("accelerator", name)
        if id_ in self._lenders:
            raise CatalogError(f"accelerator {id_!r} borrows its kernel constants in a circle: "
                               f"{' -> '.join((*self._lenders, id_))}")
        plain = Catalog.__new__(Catalog)  # a relative lends its own constants, not the user's settings
        plain.__dict__ = {**self.__dict__, "settings": (), "_cache": {}, "_lenders": (*self._lenders, id_)}
        alias = () if id_ == name else (f"{name} is read as {id_}",)
        return build.accelerator(id_, file, plain.accelerator, alias + self._notes("accelerator"))

    def cluster(self, name: str) -> Cluster:
        """The cluster `name`; an accelerator's id means that accelerator in its default cluster."""
        found: Cluster = self._once("cluster", name, lambda: self._cluster(name))
        return found

    def _cluster(self, name: str) -> Cluster:
        from perfplan.catalog import build

        chip = None if self._names("cluster", name) or not self._names("accelerator", name) else self.accelerator(name)
        if chip and not chip.default_cluster:
            raise MissingField(f"accelerator {chip.id!r} has no default cluster; name one with --cluster, such as "
                               f"{', '.join(self.ids('cluster')[:3])}")
        id_, file = self._read("cluster", chip.default_cluster if chip and chip.default_cluster else name)
        chip = chip or self.accelerator(file.accelerator)
        library = self.library(file.library)
        dispatcher = self.library(file.dispatcher) if file.dispatcher else None
        return build.cluster(id_, file, chip, library, self._notes("cluster"), dispatcher)

    def _names(self, kind: str, name: str) -> bool:
        return name in self.aliases(kind) or name in self.ids(kind)

    def library(self, name: str) -> Library:
        """The collective library `name`."""
        from perfplan.catalog import build

        found: Library = self._once("library", name, lambda: build.library(*self._read("library", name)))
        return found

    def recipe(self, name: str) -> Recipe:
        """The precision recipe `name`, such as "bf16" or "fp8"."""
        from perfplan.catalog import build

        found: Recipe = self._once("recipe", name, lambda: build.recipe(*self._read("recipe", name)))
        return found

    def optimizer(self, name: str) -> Optimizer:
        """The optimizer `name`, such as "adam" or "muon"."""
        from perfplan.catalog import build

        found: Optimizer = self._once("optimizer", name, lambda: build.optimizer(*self._read("optimizer", name)))
        return found

    def framework(self, name: str) -> Framework:
        """The training framework `name`, or one of its releases: `megatron-core`, `megatron-core-26.04`."""
        from perfplan.catalog import build

        plain, _, release = name.rpartition("-")
        if plain and not self._names("framework", name) and self._names("framework", plain):
            return build.released(self.framework(plain), release)
        found: Framework = self._once("framework", name, lambda: build.framework(*self._read("framework", name)))
        return found

    def engine(self, name: str, release: str = "", family: str = "", chip: str = "") -> Engine:
        """The serving engine `name` in a release (`trtllm`, or `trtllm-0.17`) on a chip of a family."""
        from perfplan.catalog import build

        if not release and not self._names("engine", name):
            name, _, release = name.partition("-")
        id_, file = self._once("engine", name, lambda: self._read("engine", name))
        library = self.library(file.library)
        return build.engine(id_, file, release, (family, chip), library)

    def technique(self, name: str) -> Mapping[str, Any]:
        """The published technique or system `name`: its mapping as written in the file."""
        found: Mapping[str, Any] = self._once("technique", name, lambda: self.raw("technique", name)[0])
        return found

    def workload(self, name: str) -> Workload:
        """The workload `name`, or the trace that the CSV file of that path holds."""
        found: Workload = self._once("workload", name, lambda: self._workload(name))
        return found

    def _workload(self, name: str) -> Workload:
        from perfplan.catalog import workloads

        if not self._names("workload", name):
            if name.endswith(".csv") or Path(name).is_file():
                return workloads.workload_from_csv(Path(name))
            raise UnknownName(f"there is neither a workload {name!r} nor a CSV file of that path"
                              f"{offer(name, self.ids('workload'))}")
        id_, file = self._read("workload", name)
        return workloads.workload_from_file(id_, file, str(self.source("workload", name)))

    def launcher(self, name: str) -> Mapping[str, Any]:
        """The table of launch flags of the framework `name`: its mapping as written in the file."""
        found: Mapping[str, Any] = self._once("launcher", name, lambda: self.raw("launcher", name)[0])
        return found

    def bands(self) -> Bands:
        """Error bands of predictions, from the first catalog that has them."""
        from perfplan.calibration.bands import load_bands

        for root in self.roots:
            if (path := root / "bands.yaml").is_file():
                found: Bands = self._once("bands", "", lambda path=path: load_bands(path))
                return found
        raise MissingField("no catalog has error bands; add bands.yaml")

    def model(self, name: str) -> Model:
        """The model `name` (an id or a name on the Hugging Face hub), or the one that a `config.json` at path `name`
        describes."""
        found: Model = self._once("model", name, lambda: self._model(name))
        return found

    def _model(self, name: str) -> Model:
        from perfplan.catalog.models import KEYS, model_from_yaml

        known = name in self.ids("model") or name in self.aliases("model")
        if not known and (name.endswith(".json") or Path(name).exists()):
            return self._config(Path(name))
        data, where = self.raw("model", self._hub_name(name) if "/" in name else name, KEYS)
        return model_from_yaml(data, where)

    def _hub_name(self, name: str) -> str:
        """The id of the model whose file states `name` as a name on the Hugging Face hub."""
        names = self._hub_names()
        for known, id_ in names.items():
            if name.lower() == known.lower():
                return id_
        raise UnknownName(f"there is neither a file {name} nor a model of that name{offer(name, names)}")

    def _hub_names(self) -> dict[str, str]:
        """Names on the Hugging Face hub -> ids of the models whose files state them."""
        from perfplan.catalog.models import hf_names

        paths = {id_: self.source("model", id_) for id_ in self.ids("model")}
        return {name: id_ for id_, path in paths.items() for name in hf_names(files.read_yaml(path), str(path))}

    def _config(self, path: Path) -> Model:
        from perfplan.catalog.huggingface import model_from_config

        if any(s.kind == "model" for s in self.settings):
            raise CatalogError(f"model settings do not apply to {path}; change the config.json itself")
        path = path / "config.json" if path.is_dir() else path
        try:
            data = json.loads(files.read_text(path))
        except json.JSONDecodeError as error:
            raise CatalogError(f"{path}: is not JSON: {error.msg} (line {error.lineno})") from None
        except RecursionError:
            raise CatalogError(f"{path}: is nested too deep to be a model's configuration") from None
        return model_from_config(data, str(path))
