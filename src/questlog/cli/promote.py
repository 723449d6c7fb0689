"""`questlog promote`: move a project to a cluster, and compare both sides before the promotion counts as done."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from questlog.cli.progress import counting, waiting
from questlog.cli.sides import as_dict, side_by_side
from questlog.cli.terminal import terminal_width
from questlog.errors import QuestlogError
from questlog.report import human_bytes
from questlog.settings import CLUSTER_LINE

if TYPE_CHECKING:
    from questlog.pipeline import ClusterPipeline, EmbeddedPipeline
    from questlog.promote.compare import Comparison


@click.command()
@click.option("--check", is_flag=True, help="Change nothing: show the steps, and check what they need.")
@click.option("--write", is_flag=True, help=f"If both sides are equal, set {CLUSTER_LINE} in questlog.toml.")
@click.option("--abandon", is_flag=True, help="Give up a promotion; the log is no longer kept for the cluster.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def promote(folder: Path, check: bool, write: bool, abandon: bool, as_json: bool) -> None:
    """Move this project to the cluster that questlog.toml names.

    Lands the remaining events, copies the tables, forwards events that were logged meanwhile, and runs the same
    queries on both sides: those saved in queries/*.sql or, if there are none, a standard set. The promotion is
    done only if every result is equal; otherwise it exits with 1.

    If interrupted, run it again: it resumes, and no event is duplicated. The game may keep writing to the log;
    only questlog up must be stopped. Until you switch the profile nothing changes here except that events are
    landed, so you can go back at any time.
    """
    if sum((check, write, abandon)) > 1:
        raise click.UsageError("use only one of --check, --write and --abandon")
    from questlog.pipeline import open_both

    embedded, cluster = open_both(folder)
    with embedded, cluster:
        if abandon:
            _abandon(embedded)
        elif check:
            _check(embedded, cluster, as_json)
        else:
            _promote(embedded, cluster, write, as_json)


def _abandon(embedded: EmbeddedPipeline) -> None:
    from questlog.log.kafka.spool import Spool
    from questlog.pipeline import open_pipeline
    from questlog.promote.handover import abandon

    project = embedded.project
    if open_pipeline(project.root).uses_servers:
        raise QuestlogError("this project is on the cluster profile", hint='set profile = "embedded" first')
    with Spool(project.data, project.log_folder, promoting=True) as spool:
        handover = spool.handover
        if handover is None:
            click.echo("this project was never promoted")
            return
        abandon(spool)
    click.echo(
        f"given up; the copied tables stay in {handover.target}, and another promotion needs another schema and topic"
    )


def _check(embedded: EmbeddedPipeline, cluster: ClusterPipeline, as_json: bool) -> None:
    """Print the steps and what they need; exit with 1 if a requirement is not met."""
    from questlog.report.preflight import plan_promotion, preflight

    settings = cluster.project.settings
    todo = plan_promotion(embedded.project, embedded.log, settings)
    requirements = list(preflight(embedded.project, settings, lambda: cluster.engine))
    if as_json:
        tables = [{"table": name, **asdict(size)} for name, size in todo.tables.items()]
        needs = [{"what": each.name, "good": each.met, "said": each.text, "hint": each.hint} for each in requirements]
        report = {"target": todo.target, "begun": todo.state, "waiting": todo.waiting, "tables": tables, "needs": needs}
        click.echo(json.dumps(report, indent=2))
    else:
        click.echo(f"to {todo.target}")
        if todo.state == "sealed":
            click.echo("the tables are copied; events logged since will be forwarded and landed on both sides")
        else:
            click.echo(
                f"land {todo.waiting:,} records, then copy" + (", resuming where it stopped:" if todo.state else ":")
            )
            for name, size in todo.tables.items():
                click.echo(f"  {name:<24} {size.rows:>12,} rows  {human_bytes(size.bytes):>9}")
        for each in requirements:
            click.echo(f"{'ok' if each.met else 'NO':<3} {each.name:<10} {each.text}")
            if each.hint:
                click.echo(f"      try: {each.hint}")
    if not all(each.met for each in requirements):
        raise SystemExit(1)


def _promote(embedded: EmbeddedPipeline, cluster: ClusterPipeline, write: bool, as_json: bool) -> None:
    from questlog.log.kafka.spool import read_handover
    from questlog.pipeline import open_pipeline
    from questlog.promote import Promotion
    from questlog.promote.setup import require_prerequisites, write_profile

    def show(text: str) -> None:
        if not as_json:
            click.echo(text)

    project = embedded.project
    begun = read_handover(project.data)
    if open_pipeline(project.root).uses_servers and begun and begun.state == "sealed":
        raise QuestlogError(f"this project is on the cluster profile; it was promoted to {begun.target}")
    require_prerequisites(embedded, cluster)
    with _explained(), ExitStack() as stack:
        with waiting("Spark has been starting for"):
            promotion = stack.enter_context(Promotion(embedded, cluster))
        landed = promotion.land()
        show(f"landed the remaining {landed.records:,} records here")
        with counting("copying") as progress:
            copied = promotion.copy(progress)
        show(f"copied {_rows(copied)}" if copied is not None else "the tables were copied by an earlier run")
        with waiting("events logged meanwhile have been on their way for"):
            caught = promotion.catch_up()
        show(f"forwarded {caught.records:,} records that were logged meanwhile, and landed them on both sides\n")
        answers = []
        for answer in promotion.compare(caught.through):
            answers.append(answer)
            show(side_by_side(answer, terminal_width(sys.stdout.buffer)))
    equal = all(answer.equal for answer in answers)
    if write and equal:
        write_profile(project.root / "questlog.toml")
    report = {
        "target": promotion.target, "landed": landed.records, "copied": copied, "caught_up": caught.records,
        "verdict": "equal" if equal else "different", "written": write and equal,
        "questions": [as_dict(answer) for answer in answers],
    }  # fmt: skip
    click.echo(json.dumps(report, indent=2, default=str) if as_json else _verdict(answers, write))
    if not equal:
        raise SystemExit(1)


@contextmanager
def _explained() -> Iterator[None]:
    """Reduce an error of Spark's to one line. Nothing is lost: the next run resumes."""
    try:
        yield
    except Exception as error:
        if type(error).__module__.split(".")[0] not in ("py4j", "pyspark"):
            raise
        line = next((line for line in str(error).splitlines() if line.strip()), repr(error))
        raise QuestlogError(
            f"the cluster refused: {line[:300]}",
            hint="questlog stack status; questlog promote resumes where it stopped",
        ) from error


def _rows(copied: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in copied.items()) or "nothing: no event has ever landed"


def _verdict(answers: Sequence[Comparison], written: bool) -> str:
    """Return the verdict and the next step."""
    different = [answer.question.name for answer in answers if not answer.equal]
    if different:
        return (
            f"DIFFERENT: {len(different)} of {len(answers)} queries have different results: {', '.join(different)}\n"
            "not promoted; this project has not changed, and questlog promote compares again\n"
            "  if the plan has changed since the copy, rows that only one side had landed by then differ: run\n"
            "  questlog promote --abandon, then promote to another namespace and topic"
        )
    verdict = f"EQUAL: all {len(answers)} queries have the same result on both sides\n"
    if written:
        return verdict + f"set {CLUSTER_LINE} in questlog.toml; now run questlog up"
    return (
        verdict
        + f"to switch over, set {CLUSTER_LINE} in questlog.toml (questlog promote --write does), then run questlog up"
    )
