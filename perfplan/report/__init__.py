"""Reports: text tables for people, CSV and JSON for machines, files written whole or not at all."""

from perfplan.report.columns import Column, Row
from perfplan.report.files import STDOUT, write, write_all
from perfplan.report.machine import plain, records, to_csv, to_json
from perfplan.report.output import Output
from perfplan.report.progress import Progress
from perfplan.report.text import paragraph, table

__all__ = [
    "STDOUT",
    "Column",
    "Output",
    "Progress",
    "Row",
    "paragraph",
    "plain",
    "records",
    "table",
    "to_csv",
    "to_json",
    "write",
    "write_all",
]
