"""Tensors that are read when they are asked for."""

from collections.abc import Callable, Iterator, Mapping
from weakref import WeakValueDictionary

from torch import Tensor


class LazyTensors(Mapping[str, Tensor]):
    """A mapping that reads its values, and keeps none of them: who asks twice at a time gets the same tensor."""

    def __init__(self, read: Callable[[str], Tensor], names: tuple[str, ...]) -> None:
        """Reads nothing yet.

        Args:
            read: Reads a tensor by name.
            names: All there are.
        """
        self._read = read
        self._names = dict.fromkeys(names)
        self._held: WeakValueDictionary[str, Tensor] = WeakValueDictionary()

    def __getitem__(self, name: str) -> Tensor:
        """Reads a tensor, unless somebody holds it."""
        if name not in self._names:
            raise KeyError(name)
        tensor = self._held.get(name)
        if tensor is None:
            tensor = self._held[name] = self._read(name)
        return tensor

    def __contains__(self, name: object) -> bool:
        """Whether there is such a tensor; reads none."""
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        """Names."""
        return iter(self._names)

    def __len__(self) -> int:
        """How many there are."""
        return len(self._names)
