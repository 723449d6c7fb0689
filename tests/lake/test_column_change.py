"""A column can be widened in place; every change that could lose a value is breaking."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from questlog.plan import Type
from questlog.plan.evolve import column_change, widest
from questlog.plan.load import parse_type

CHANGES = [
    ("int", "int", "same"),
    ("int", "long", "widening"),
    ("long", "int", "breaking"),
    ("float", "double", "widening"),
    ("double", "float", "breaking"),
    ("int", "double", "breaking"),
    ("string", "int", "breaking"),
    ("date", "timestamp", "breaking"),
    ("decimal(9,2)", "decimal(12,2)", "widening"),
    ("decimal(12,2)", "decimal(9,2)", "breaking"),
    ("decimal(9,2)", "decimal(12,3)", "breaking"),
    ("list<int>", "list<long>", "widening"),
    ("list<int>", "int", "breaking"),
    ("map<string,float>", "map<string,double>", "widening"),
    ("struct<a:int>", "struct<a:int,b:string>", "widening"),
    ("struct<a:int,b:string>", "struct<b:string,a:int>", "same"),
    ("struct<a:int,b:string>", "struct<a:int>", "same"),
    ("struct<a:int>", "struct<a:string>", "breaking"),
    ("struct<a:list<int>>", "struct<a:list<long>,b:date>", "widening"),
]


@pytest.mark.parametrize(("old", "new", "change"), CHANGES)
def test_each_type_change_is_classified(old: str, new: str, change: str) -> None:
    assert column_change(parse_type(old), parse_type(new)) == change


def types() -> st.SearchStrategy[Type]:
    scalars = st.sampled_from(["string", "bool", "int", "long", "float", "double", "timestamp", "date"]).map(Type)
    decimals = st.integers(3, 38).map(lambda p: Type("decimal", p, 2))
    return st.recursive(
        scalars | decimals,
        lambda inner: st.one_of(
            inner.map(lambda t: Type("list", item=t)),
            inner.map(lambda t: Type("map", item=t)),
            st.dictionaries(st.sampled_from("abcd"), inner, min_size=1, max_size=3).map(
                lambda d: Type("struct", fields=tuple(d.items()))
            ),
        ),
        max_leaves=5,
    )


@given(types(), types())
def test_the_widest_type_holds_both_and_is_reached_from_either_side(old: Type, new: Type) -> None:
    if column_change(old, new) != "breaking":
        both = widest(old, new)
        assert "breaking" not in (column_change(old, both), column_change(new, both))
        assert column_change(both, old) == "same" or column_change(old, both) == "widening"
        assert column_change(both, widest(new, old)) == "same"
    assert widest(old, old) == old
