"""`perfplan catalog list|show|check|schemas`: look at the shipped catalog and at one's own."""

from __future__ import annotations

from typing import Annotated

import typer

from perfplan.cli import options

__all__ = ["app"]

app = typer.Typer(help="List, show and check hardware, models and recipes.")

KINDS = "accelerator, cluster, model, workload, recipe, framework, engine, optimizer, library, technique or launcher"

Kind = Annotated[str | None, typer.Option(
    "--kind", metavar="KIND", show_default=False,
    help=f"{KINDS}.")]


@app.command("list")
def list_entries(
    kind: Annotated[str, typer.Argument(metavar="KIND", help=f"{KINDS}.")] = "cluster",
    folders: options.Folders = None,
    csv: options.Csv = None,
    json: options.Json = False,
) -> None:
    """List the entries of one kind."""
    from perfplan.catalog import Catalog, check
    from perfplan.report import Output, catalog, table

    kind = check.singular(kind)
    rows = check.listing(Catalog(folders or ()), kind)
    columns = catalog.COLUMNS.get(kind, catalog.PLAIN_COLUMNS)
    Output(csv, json).emit(table(rows, columns), rows, columns)


@app.command()
def show(
    name: Annotated[str, typer.Argument(metavar="ID", show_default=False, help="Entry to show.")],
    kind: Kind = None,
    folders: options.Folders = None,
    settings: options.Settings = None,
    csv: options.Csv = None,
    json: options.Json = False,
) -> None:
    """Show one entry: every value with its unit and source."""
    from perfplan.catalog import Catalog, check
    from perfplan.report import Output, catalog, plain

    entries = Catalog(folders or (), settings or ())
    kind = check.find_kind(entries, name, kind and check.singular(kind))
    entry = getattr(entries, kind)(name)
    check.refuse_unused(entries)
    rows = catalog.entry_rows(entry)
    text = f"{kind} {name}: {check.place(entries, kind, name)}\n\n{catalog.entry_text(rows)}"
    document = entry.summary() if kind == "workload" else plain(entry)
    Output(csv, json).emit(text, rows, catalog.ENTRY_COLUMNS, document)


@app.command("check")
def check_entries(
    folders: options.Folders = None,
    csv: options.Csv = None,
    json: options.Json = False,
) -> int:
    """Load every entry and follow what it names; exit status 2 if anything is wrong."""
    from perfplan.catalog import Catalog, check
    from perfplan.report import Output, catalog, table

    faults, looked = check.check(Catalog(folders or ()))
    rows = [vars(fault) for fault in faults]
    text = table(rows, catalog.FAULT_COLUMNS) + "\n\n" if rows else ""
    Output(csv, json).emit(f"{text}{looked} entries, {len(faults)} faults", rows, catalog.FAULT_COLUMNS)
    return 2 if faults else 0


@app.command()
def schemas(
    folder: Annotated[str, typer.Argument(metavar="DIR", show_default=False, help="Folder to write into.")],
) -> None:
    """Write the JSON Schemas of the catalog files, for completion in editors."""
    from pathlib import Path

    from perfplan.catalog.editor import write_schemas

    for path in write_schemas(Path(folder)):
        print(path)
