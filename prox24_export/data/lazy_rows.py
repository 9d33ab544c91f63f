"""What arrays have in common whose rows are read when they are asked for."""


class LazyRows:
    """The number of axes and of rows, which follow from the shape.

    Attributes:
        shape: The shape of all rows together; it has at least one axis.
    """

    shape: tuple[int, ...]

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return len(self.shape)

    def __len__(self) -> int:
        """The number of rows."""
        return self.shape[0]
