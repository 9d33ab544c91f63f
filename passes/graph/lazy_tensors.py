"""A mapping of tensors that are read only when they are asked for."""

from collections.abc import Callable, Iterator, Mapping
from weakref import WeakValueDictionary

from torch import Tensor


class LazyTensors(Mapping[str, Tensor]):
    """A mapping that reads a tensor when it is asked for, and does not keep it.

    While somebody holds a tensor, everybody who asks for it gets the same one.
    """

    def __init__(self, read: Callable[[str], Tensor], names: tuple[str, ...]) -> None:
        """Reads nothing yet.

        Args:
            read: Reads a tensor by its name.
            names: The names of all tensors.
        """
        self._read = read
        self._names = dict.fromkeys(names)
        self._held: WeakValueDictionary[str, Tensor] = WeakValueDictionary()

    def __getitem__(self, name: str) -> Tensor:
        """Reads a tensor, unless somebody holds it already.

        Raises:
            KeyError: There is no tensor of this name.
        """
        if name not in self._names:
            raise KeyError(name)
        tensor = self._held.get(name)
        if tensor is None:
            tensor = self._held[name] = self._read(name)
        return tensor

    def __contains__(self, name: object) -> bool:
        """Whether there is a tensor of this name; none is read."""
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        """Iterates over the names; no tensor is read."""
        return iter(self._names)

    def __len__(self) -> int:
        """The number of tensors."""
        return len(self._names)
