"""`questlog doctor`: checks this machine and this project's data."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from questlog.cli.terminal import draw, uses_color
from questlog.pipeline import open_pipeline
from questlog.printable import escape
from questlog.report.doctor import Finding

_COLORS = {"ok": "green", "warning": "yellow", "fault": "red"}


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def doctor(folder: Path, as_json: bool) -> None:
    """Check the disk, fsync, permissions, SQLite's effective settings, versions, and the state of the data.

    Changes nothing. Exits with 1 if it finds a fault.
    """
    findings = []
    for finding in open_pipeline(folder).examine():
        findings.append(finding)
        if not as_json:
            _show(finding)
    if as_json:
        click.echo(json.dumps([_document(finding) for finding in findings], indent=2))
    if any(finding.verdict == "fault" for finding in findings):
        raise SystemExit(1)


def _document(finding: Finding) -> dict[str, str]:
    return {"check": finding.check, "verdict": finding.verdict, "found": finding.text, "advice": finding.advice}


def _show(finding: Finding) -> None:
    verdict = f"{finding.verdict:<8}"
    if sys.stdout.isatty() and uses_color():
        verdict = click.style(verdict, fg=_COLORS[finding.verdict])
    draw(f"{verdict} {finding.check:<12} {escape(finding.text)}")
    if finding.advice:
        click.echo(f"{'':22}{finding.advice}")
