"""A mapping that reads its values when they are asked for."""

import pytest

from prox24_export.passes.graph.lazy_mapping import LazyMapping


def test_a_value_is_read_each_time_that_it_is_asked_for_and_never_before() -> None:
    read: list[str] = []

    def read_one(name: str) -> int:
        read.append(name)
        return len(read)

    lazy = LazyMapping(read_one, ("b", "a"))
    assert (list(lazy), len(lazy), "a" in lazy, "c" in lazy) == (["b", "a"], 2, True, False)
    assert read == []
    assert (lazy["a"], lazy["a"]) == (1, 2)
    assert dict(lazy.items()) == {"b": 3, "a": 4}
    with pytest.raises(KeyError, match="c"):
        lazy["c"]
    assert read == ["a", "a", "b", "a"]
