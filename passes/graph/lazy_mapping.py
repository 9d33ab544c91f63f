"""A mapping whose values are read when they are asked for."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TypeVar

Lazy = TypeVar("Lazy")


class LazyMapping(Mapping[str, Lazy]):
    """A mapping that reads a value each time that it is asked for, and keeps none."""

    def __init__(self, read: Callable[[str], Lazy], names: Iterable[str]) -> None:
        """Reads nothing yet.

        Args:
            read: Reads a value by its name.
            names: The names of all values, in their order.
        """
        self._read, self._names = read, dict.fromkeys(names)

    def __getitem__(self, name: str) -> Lazy:
        """Reads a value.

        Raises:
            KeyError: There is no value of this name.
        """
        if name not in self._names:
            raise KeyError(name)
        return self._read(name)

    def __contains__(self, name: object) -> bool:
        """Whether there is a value of this name; none is read."""
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        """Iterates over the names; no value is read."""
        return iter(self._names)

    def __len__(self) -> int:
        """The number of values."""
        return len(self._names)
