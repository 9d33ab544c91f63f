"""A mapping of tensors that are read only when they are asked for."""

from collections.abc import Callable, Iterable
from weakref import WeakValueDictionary

from torch import Tensor

from prox24_export.passes.graph.lazy_mapping import LazyMapping


class LazyTensors(LazyMapping[Tensor]):
    """A mapping that reads a tensor when it is asked for, and does not keep it.

    While somebody holds a tensor, everybody who asks for it gets the same one.
    """

    def __init__(self, read: Callable[[str], Tensor], names: Iterable[str]) -> None:
        """Reads nothing yet; the arguments are those of `LazyMapping`."""
        super().__init__(read, names)
        self._held: WeakValueDictionary[str, Tensor] = WeakValueDictionary()

    def __getitem__(self, name: str) -> Tensor:
        """Reads a tensor, unless somebody holds it already.

        Raises:
            KeyError: There is no tensor of this name.
        """
        tensor = self._held.get(name)
        if tensor is None:
            tensor = self._held[name] = super().__getitem__(name)
        return tensor
