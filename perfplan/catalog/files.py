"""Catalog files: where they lie, which file holds which id, and YAML read in the one safe way.

Everything that can hurt is refused: tags, anchors and aliases (a YAML bomb needs them), repeated keys, deep nesting,
big files, several documents. Numbers with exponents, `on`, dates and the like stay text for `perfplan.units` to read.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from perfplan.errors import CatalogError, DuplicateId, UnknownName, offer

__all__ = ["FOLDERS", "MAX_BYTES", "MAX_DEPTH", "find", "known_ids", "packaged_root", "read_text", "read_yaml", "roots"]

FOLDERS: Mapping[str, str] = {
    "accelerator": "accelerators", "cluster": "clusters", "model": "models", "recipe": "recipes",
    "framework": "frameworks", "optimizer": "optimizers", "library": "libraries",
    "technique": "techniques", "workload": "workloads", "engine": "engines",
    "launcher": "launchers",
}
MAX_BYTES = 1 << 20  # B, larger files are no catalog entries
MAX_DEPTH = 24  # nested mappings and lists
_SafeLoader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Loader(_SafeLoader):  # type: ignore[misc]
    """Safe loader that knows null, true/false, plain integers and decimals, and nothing else."""

    yaml_implicit_resolvers: dict[str, Any] = {}


_Loader.add_implicit_resolver("tag:yaml.org,2002:null", re.compile(r"^(?:~|null|)$"), ["~", "n", ""])
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"^(?:true|false)$"), ["t", "f"])
_Loader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"^-?(?:0|[1-9]\d{0,17})$"), list("-0123456789"))
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(r"^-?\d{1,17}\.\d{0,17}$"), list("-0123456789"))


def _mapping(loader: Any, node: yaml.MappingNode) -> dict[str, Any]:
    pairs: dict[str, Any] = {}
    for key_node, value_node in node.value:
        key = str(loader.construct_object(key_node, deep=True))
        if key in pairs:
            raise DuplicateId(f"key {key!r} stands twice (line {key_node.start_mark.line + 1}); keep one of them")
        pairs[key] = loader.construct_object(value_node, deep=True)
    return pairs


_Loader.add_constructor("tag:yaml.org,2002:map", _mapping)


def _refuse_bombs(text: str) -> None:
    depth = 0
    for event in yaml.parse(text, Loader=_Loader):
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise CatalogError("anchors and aliases (& and *) are not allowed; write the value out")
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > MAX_DEPTH:
                raise CatalogError(f"nested more than {MAX_DEPTH} levels deep; this is no catalog entry")
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1


def parse_yaml(text: str) -> Any:
    """Plain Python data of a YAML text; raises CatalogError without a file name."""
    try:
        _refuse_bombs(text)
        return yaml.load(text, Loader=_Loader)  # a subclass of the safe loader
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise CatalogError(f"not valid YAML: {error.problem} (line {line})") from error
    except yaml.YAMLError as error:
        raise CatalogError(f"not valid YAML: {' '.join(str(error).split())}") from error


def read_text(path: Path) -> str:
    """Text of a catalog file of at most `MAX_BYTES`; every failure is one CatalogError."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise CatalogError(f"{path}: larger than {MAX_BYTES} B; this is no catalog entry")
        return path.read_text(encoding="utf-8")
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise CatalogError(f"{path}: cannot be read: {reason}; check the path") from error
    except UnicodeDecodeError as error:
        raise CatalogError(f"{path}: is not a UTF-8 text file") from error


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping that a catalog file holds. Raises CatalogError naming the file."""
    try:
        data = parse_yaml(read_text(path))
    except CatalogError as error:
        raise type(error)(str(error) if str(error).startswith(str(path)) else f"{path}: {error}") from error
    if not isinstance(data, dict):
        raise CatalogError(f"{path}: holds {type(data).__name__ if data is not None else 'nothing'}; "
                           "a catalog entry is a mapping of fields")
    return data


@lru_cache(maxsize=1)
def packaged_root() -> Path:
    """Folder of the shipped catalogs: the copy inside the installed package, else the source tree's `catalogs/`."""
    inside = Path(str(resources.files("perfplan"))) / "_catalogs"
    beside = Path(str(resources.files("perfplan"))).parent / "catalogs"
    for folder in (inside, beside):
        if (folder / "accelerators").is_dir():
            return folder
    raise CatalogError(f"the shipped catalogs are missing (looked in {inside} and {beside}); install perfplan again")


def roots(folders: tuple[str | Path, ...]) -> tuple[Path, ...]:
    """User folders in the order given, then the shipped one; a folder that is no catalog is an error."""
    found = []
    for folder in map(Path, folders):
        if not folder.is_dir():
            raise CatalogError(f"{folder}: is not a folder; --catalog wants one with {', '.join(FOLDERS.values())}")
        if not any((folder / name).is_dir() for name in FOLDERS.values()):
            raise CatalogError(f"{folder}: has none of the folders {', '.join(FOLDERS.values())}")
        found.append(folder)
    return (*found, packaged_root())


def _yaml_files(folder: Path) -> Iterator[Path]:
    if folder.is_dir():
        yield from sorted(p for p in folder.iterdir() if p.suffix in (".yaml", ".yml") and p.is_file())


def _stated_id(path: Path) -> str:
    found = re.search(r"^id:[ \t]*[\"']?([^\s\"'#]+)", read_text(path), re.MULTILINE)
    return found[1] if found else path.stem


@lru_cache(maxsize=256)
def _index(folder: Path, shipped: bool) -> dict[str, Path]:
    index: dict[str, Path] = {}
    for path in _yaml_files(folder):
        name = path.stem if shipped else _stated_id(path)
        if name in index:
            raise DuplicateId(f"{path}: id {name!r} is also that of {index[name]}; rename one of them")
        index[name] = path
    return index


def _fresh_index(root: Path, kind: str) -> dict[str, Path]:
    if kind not in FOLDERS:
        raise UnknownName(f"there is no catalog of {kind!r}{offer(kind, FOLDERS)}")
    shipped = root == packaged_root()
    if not shipped:
        _index.cache_clear()  # a user's folder may change between two calls of one process
    return _index(root / FOLDERS[kind], shipped)


def known_ids(searched: tuple[Path, ...], kind: str) -> list[str]:
    """All ids of a kind, sorted."""
    return sorted({name for root in searched for name in _fresh_index(root, kind)})


def misnamed(searched: tuple[Path, ...], kind: str, name: str) -> str:
    """A hint, if a user's file is called `name` but states another id, at which file it is; else an empty text."""
    for root in searched:
        for stated, path in _fresh_index(root, kind).items():
            if path.stem == name and stated != name:
                return f"; {path} holds {stated!r}, the id that stands in it"
    return ""


def find(searched: tuple[Path, ...], kind: str, name: str) -> Path:
    """The file that holds `name`: a user's folder wins over the shipped one. Raises UnknownName with an offer."""
    for root in searched:
        direct = root / FOLDERS[kind] / f"{name}.yaml"
        if root == packaged_root() and re.fullmatch(r"[A-Za-z0-9._+-]{1,128}", name) and direct.is_file():
            return direct
        if name in (index := _fresh_index(root, kind)):
            return index[name]
    raise UnknownName(f"there is no {kind} {name!r}{offer(name, known_ids(searched, kind))}")
