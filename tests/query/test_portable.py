"""`questlog sql --check` accepts the corpus that all engines agree on, and reports constructs that differ."""

import pytest

from questlog.query.portable import check_portable
from support.paths import CLUSTER

CORPUS = (CLUSTER / "corpus.sql").read_text("utf-8")


def test_the_corpus_is_portable() -> None:
    assert check_portable(CORPUS) == []


@pytest.mark.parametrize(
    ("text", "issues"),
    [
        ("select 1;\nselect item::varchar from t", [(2, 12, "::")]),
        ("select tags[1] from t", [(1, 12, "[")]),
        ("select host, count(*) from t group by all", [(1, 39, "by all")]),
        ("select a / b from t", [(1, 10, "a division")]),
        ("select cast(a as double) / b from t", []),
        ("from t", [(1, 1, "a statement that begins with from")]),
        ('select "host" from t', [(1, 8, 'the quoted name "host"')]),
        ("select at + interval 30 minute from t", [(1, 13, "an interval without a quoted number")]),
        ("select at + interval '30 minutes' from t", [(1, 13, "an interval without a quoted number")]),
        ("select strftime(at, '%Y') from t", [(1, 8, "the function strftime")]),
        ("select arg_max(a, b) from t", [(1, 8, "the function arg_max")]),
        ("select cast(a as varchar) from t", [(1, 18, "varchar without a length")]),
        ("select cast(a as hugeint) from t", [(1, 18, "the type hugeint")]),
        ("select a as b, (select max(c) as d from t) from t", []),
        ("select 1 from t qualify row_number() over (order by a) = 1", [(1, 17, "qualify")]),
        ("select 'c:\\dir' from t", [(1, 8, "a backslash in a string")]),
        ("with n(i) as (select 1) select i from n", []),
        ("show tables; describe t; -- strftime('x')\nselect 'strftime(1)'", []),
        ("select `a` from t", [(1, 8, "`"), (1, 10, "`")]),
        ("select $$x$$", [(1, 8, "a dollar-quoted string")]),
        ("select a ilike 'x' from t", [(1, 10, "ilike")]),
    ],
)
def test_a_construct_that_differs_is_reported_with_its_position(text: str, issues: list[tuple[int, int, str]]) -> None:
    assert [(each.line, each.column, each.what) for each in check_portable(text)] == issues
