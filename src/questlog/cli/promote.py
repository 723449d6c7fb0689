"""`questlog promote`: from a laptop to a cluster, and the same questions on both sides before it counts as done."""

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
from questlog.settings import load_settings

if TYPE_CHECKING:
    from questlog.pipeline import ClusterPipeline, EmbeddedPipeline
    from questlog.promote.compare import Comparison

LINE = 'profile = "cluster"'


@click.command()
@click.option("--check", is_flag=True, help="Change nothing: say what there is to do and whether the cluster is there.")
@click.option("--write", is_flag=True, help=f"If both sides are equal, write {LINE} into questlog.toml.")
@click.option("--abandon", is_flag=True, help="Give a promotion up: the log is kept for this profile alone again.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def promote(folder: Path, check: bool, write: bool, abandon: bool, as_json: bool) -> None:
    """Take this project to the cluster that questlog.toml names.

    Lands what is left, copies the tables, forwards what was logged meanwhile, and asks both sides the same
    questions: the saved ones in queries/*.sql, or the usual ones without any. It counts as done only if every
    answer is equal; if not it exits with 1.

    Interrupted, or told to go on later, it goes on where it stopped and doubles nothing. The game may write to
    the log all the while; only questlog up must be stopped. Until the profile is changed nothing here changes
    but the tables, which go on landing, so there is a way back at any time.
    """
    if sum((check, write, abandon)) > 1:
        raise click.UsageError("--check, --write and --abandon are different things to do")
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
    from questlog.promote.handover import abandon

    project = embedded.project
    if load_settings(project.root / "questlog.toml").profile == "cluster":
        raise QuestlogError("this project is on the cluster profile", hint='set profile = "embedded" first')
    with Spool(project.data, project.log_folder, promoting=True) as spool:
        handover = spool.handover
        if handover is None:
            click.echo("nothing was promoted from here")
            return
        abandon(spool)
    click.echo(
        f"given up; what was copied stays in {handover.target}, and another promotion needs another schema and topic"
    )


def _check(embedded: EmbeddedPipeline, cluster: ClusterPipeline, as_json: bool) -> None:
    """Print what there is to do and what it needs; exit with 1 if something is missing."""
    from questlog.report.preflight import plan_promotion, preflight

    settings = cluster.project.settings
    todo = plan_promotion(embedded.project, embedded.log, settings)
    requirements = list(preflight(embedded.project, settings, cluster.engine))
    if as_json:
        tables = [{"table": name, **asdict(size)} for name, size in todo.tables.items()]
        needs = [{"what": each.name, "good": each.met, "said": each.text, "hint": each.hint} for each in requirements]
        report = {"target": todo.target, "begun": todo.state, "waiting": todo.waiting, "tables": tables, "needs": needs}
        click.echo(json.dumps(report, indent=2))
    else:
        click.echo(f"to {todo.target}")
        if todo.state == "sealed":
            click.echo("the tables are there; what was logged since is forwarded and landed on both sides")
        else:
            click.echo(
                f"land {todo.waiting:,} records, then copy" + (", from where it stopped:" if todo.state else ":")
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
    from questlog.promote import Promotion
    from questlog.promote.setup import refuse_what_is_missing, write_profile

    def say(text: str) -> None:
        if not as_json:
            click.echo(text)

    project = embedded.project
    begun = read_handover(project.data)
    if load_settings(project.root / "questlog.toml").profile == "cluster" and begun and begun.state == "sealed":
        raise QuestlogError(f"this project is on the cluster profile; it was promoted to {begun.target}")
    refuse_what_is_missing(embedded, cluster)
    with _explained(), ExitStack() as stack:
        with waiting("Spark has been starting for"):
            promotion = stack.enter_context(Promotion(embedded, cluster))
        landed = promotion.land()
        say(f"landed here what was left: {landed.records:,} records")
        with counting("copying") as show:
            copied = promotion.copy(show)
        say(f"copied {_rows(copied)}" if copied is not None else "the tables were copied before")
        with waiting("what came meanwhile has been on its way for"):
            caught = promotion.catch_up()
        say(f"forwarded, and landed on both sides, what came meanwhile: {caught.records:,} records\n")
        answers = []
        for answer in promotion.compare(caught.through):
            answers.append(answer)
            say(side_by_side(answer, terminal_width(sys.stdout.buffer)))
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
    """Say in one line what Spark says in a hundred; everything is where it was, and the next run goes on."""
    try:
        yield
    except Exception as error:
        if type(error).__module__.split(".")[0] not in ("py4j", "pyspark"):
            raise
        said = next((line for line in str(error).splitlines() if line.strip()), repr(error))
        raise QuestlogError(
            f"the cluster refused: {said[:300]}",
            hint="questlog stack status; questlog promote goes on where it stopped",
        ) from error


def _rows(copied: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in copied.items()) or "nothing: no event was ever landed"


def _verdict(answers: Sequence[Comparison], written: bool) -> str:
    """Return what to do now."""
    different = [answer.question.name for answer in answers if not answer.equal]
    if different:
        return (
            f"DIFFERENT: {len(different)} of {len(answers)} questions have other answers: {', '.join(different)}\n"
            "not promoted; this project stays as it is, and questlog promote asks again\n"
            "  where the plan has changed since the copy, rows that only one side had landed by then differ; then\n"
            "  questlog promote --abandon, and promote to another namespace and topic"
        )
    said = f"EQUAL: all {len(answers)} questions have the same answer on both sides\n"
    if written:
        return said + f"wrote {LINE} into questlog.toml; now run questlog up"
    return said + f"to go over, write {LINE} into questlog.toml (questlog promote --write does), then run questlog up"
