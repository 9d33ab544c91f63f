"""How many samples a step of the refinement has, and how many epochs are planned."""

STEPS_PLANNED, FEWEST, MOST = 360, 6, 20  # steps wanted; fewest and most epochs that they may be
BATCH, LEAST_BATCHES = 16, 4  # samples in a step; fewest steps in an epoch
MOST_OF_VIEWS, BATCH_OF_VIEWS = 30, 32  # most epochs and samples in a step where views of an image are the target


def choose_batch(samples: int, *, together: bool = False) -> int:
    """Chooses how many samples are in a step, of so many to tune on; `together` where views are the target."""
    return max(1, min(BATCH_OF_VIEWS if together else BATCH, samples // LEAST_BATCHES))


def plan_epochs(steps: int, *, together: bool = False) -> int:
    """Plans the number of epochs of so many steps; `together` where views are the target."""
    return min(MOST_OF_VIEWS if together else MOST, max(FEWEST, round(STEPS_PLANNED / steps)))
