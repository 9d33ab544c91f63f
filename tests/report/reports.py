"""Reports that no run would make: any text, any number, every part present or absent."""

import dataclasses
from typing import Any, get_type_hints

from hypothesis import strategies as st

from prox24_export.results.reader import NOT_FINITE
from prox24_export.results.report import AccuracyReport, Report

TEXT = st.text(max_size=8)
PLAIN = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), TEXT.filter(lambda text: text not in NOT_FINITE)
)
FACTS = st.dictionaries(TEXT, st.one_of(PLAIN, st.lists(PLAIN, max_size=2).map(tuple)), max_size=2)

PARTS = ("layers", "gates", "seconds", "estimate", "engine", "refinement", "warnings", "budget")


def reports() -> st.SearchStrategy[Report]:
    """Whatever the dataclasses allow; only what a reader checks is as a run would write it."""
    names = st.lists(TEXT, max_size=2, unique=True)
    return st.builds(
        Report,
        tool=st.just("prox24-export"),
        machine=FACTS,
        settings=FACTS,
        schema_version=st.just(1),
        accuracy=st.none() | names.flatmap(_accuracy),
        **{name: _of(name) for name in PARTS},
    )


def _of(name: str) -> st.SearchStrategy[Any]:
    return st.from_type(get_type_hints(Report)[name])


def _accuracy(names: list[str]) -> st.SearchStrategy[AccuracyReport]:
    """The same metrics of both models."""
    metrics = st.fixed_dictionaries(dict.fromkeys(names, st.floats()))
    others = {field.name for field in dataclasses.fields(AccuracyReport)} - {"dense", "sparse"}
    hints = get_type_hints(AccuracyReport)
    return st.builds(
        AccuracyReport, dense=metrics, sparse=metrics, **{name: st.from_type(hints[name]) for name in sorted(others)}
    )
