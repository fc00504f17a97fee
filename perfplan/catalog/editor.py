"""JSON Schemas of the catalog files, for completion and checks in editors.

The files under `catalogs/schemas/` are written by `write_schemas`; a test says when they are out of date.
"""

from __future__ import annotations

import json
from pathlib import Path

from perfplan.catalog.model_schema import model_schema
from perfplan.catalog.schemas import SCHEMAS
from perfplan.errors import ExportError

__all__ = ["schema_texts", "write_schemas"]


def schema_texts() -> dict[str, str]:
    """File name -> text of the JSON Schema, one per kind of entry."""
    schemas = {kind: schema.model_json_schema() for kind, schema in SCHEMAS.items()} | {"model": model_schema()}
    return {f"{kind}.json": json.dumps({"$schema": "https://json-schema.org/draft/2020-12/schema",
                                        **schema}, indent=1, sort_keys=True) + "\n"
            for kind, schema in schemas.items()}


def write_schemas(folder: Path) -> list[Path]:
    """Write the schemas into `folder` and return the files."""
    written = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in schema_texts().items():
            (folder / name).write_text(text, encoding="utf-8")
            written.append(folder / name)
    except OSError as error:
        raise ExportError(f"{folder}: the schemas cannot be written: {error.strerror or error}") from error
    return written
