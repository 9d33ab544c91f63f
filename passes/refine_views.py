"""Images seen otherwise: mirrored and shifted. Whether a network takes a mirrored image for the same is measured."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812 (the name torch's own documentation uses)
from torch import Tensor

AXES, MOST_CHANNELS, LEAST_SIDE = 4, 4, 16  # of what is taken for a batch of images [N, C, H, W]
SHIFT = 8  # a shift is at most this part of a side
SAME = 0.8  # share of images whose arg-max a mirror does not change, from which on the network is called symmetric

Feeds = tuple[Tensor, ...]
Run = Callable[[Feeds], Sequence[Tensor]]


@dataclass(frozen=True)
class Views:
    """What may be done to the images that a network is tuned on.

    The dense network's output is the target whatever its input is, so that a shifted image is as good as a new one.
    Where the network is measured to give a mirrored image the same class mostly, the mean over both of its outputs is
    the target: it is nearer to the truth than either (Radosavovic et al., *Data Distillation*, CVPR 2018).

    Attributes:
        images: Whether the only input is a batch of images.
        mirrored: Whether the network is symmetric.
    """

    images: bool = False
    mirrored: bool = False

    @staticmethod
    def measured(run: Run, batches: Iterable[Feeds]) -> "Views":
        """Of a network, on a few batches.

        Args:
            run: The dense network. Of one with several outputs nobody knows whether a mirror leaves the others alone.
            batches: Inputs.
        """
        same = total = 0
        for feeds in batches:
            if not is_image(feeds):
                return Views()
            with torch.no_grad():
                results, mirrored = run(feeds), run(mirror(feeds))
            seen, turned = results[0], mirrored[0]
            if len(results) > 1 or seen.ndim != 2 or seen.shape[1] < 2 or not seen.is_floating_point():  # noqa: PLR2004 - [N, C] classes
                return Views(images=True)
            same += int((seen.argmax(1) == turned.argmax(1)).sum())
            total += len(seen)
        return Views(images=total > 0, mirrored=total > 0 and same >= SAME * total)

    def changed(self, feeds: Feeds, generator: torch.Generator) -> Feeds:
        """Each image shifted at random and, where the network is symmetric, mirrored or not; else as they are."""
        if not self.images:
            return feeds
        (images,) = feeds
        if self.mirrored:
            turned = torch.rand(len(images), generator=generator) < 0.5  # noqa: PLR2004 (half)
            images = torch.where(turned[:, None, None, None], images.flip(-1), images)
        return (shifted(images, generator),)

    def outputs(self, run: Run, feeds: Feeds, count: int) -> list[Tensor]:
        """Results of `run`; the first `count`, which are outputs, averaged over both views where they are the same."""
        results = list(run(feeds))
        if self.mirrored:
            turned = run(mirror(feeds))
            results[:count] = [(one + other) / 2 for one, other in zip(results[:count], turned[:count], strict=True)]
        return results


def is_image(feeds: Feeds) -> bool:
    """Whether the only input is a batch of images: float [N, C, H, W], at most 4 channels, sides of 16 or more."""
    if len(feeds) != 1 or feeds[0].ndim != AXES or not feeds[0].is_floating_point():
        return False
    _, channels, height, width = feeds[0].shape
    return channels <= MOST_CHANNELS and min(height, width) >= LEAST_SIDE


def mirror(feeds: Feeds) -> Feeds:
    """Left and right exchanged."""
    return tuple(feed.flip(-1) for feed in feeds)


def shifted(images: Tensor, generator: torch.Generator) -> Tensor:
    """Each by up to an eighth of a side, its edge mirrored into the gap."""
    _, _, height, width = images.shape
    most = max(1, min(height, width) // SHIFT)
    padded = F.pad(images, (most,) * 4, mode="reflect")
    places = torch.randint(0, 2 * most + 1, (len(images), 2), generator=generator).tolist()
    return torch.stack([image[:, y : y + height, x : x + width] for image, (y, x) in zip(padded, places, strict=True)])
