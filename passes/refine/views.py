"""Views of images: mirrored and shifted ones. Whether a network takes them for the same image is measured."""

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812 (the name torch's own documentation uses)
from torch import Tensor

AXES, MOST_CHANNELS, LEAST_SIDE = 4, 4, 16  # what is taken for a batch of images [N, C, H, W]
SHIFT = 8  # a shift is at most a side divided by this
SAME = 0.8  # a network is called symmetric if views leave the arg-max of at least this share of images as it is
CHANGE = 0.5  # most change by a view, as share of the variance between images: where an object lies is no class

Inputs = tuple[Tensor, ...]
Network = Callable[[Inputs], Sequence[Tensor]]


@dataclass(frozen=True)
class Views:
    """The views that may be taken of the images that a network is tuned on.

    The dense network's output is the target whatever its input is, so that a shifted image is as good as a new one.
    Where the network turns out to give mirrored and shifted images mostly the same class, the target may be what it
    says about all of them together, which is nearer to the truth than what it says about one (Radosavovic et al., *Data
    Distillation*, CVPR 2018).

    Attributes:
        images: Whether the only input is a batch of images.
        symmetric: Whether the network takes mirrored and shifted images for the same.
    """

    images: bool = False
    symmetric: bool = False

    @staticmethod
    def measure(run: Network, batches: Iterable[Inputs]) -> "Views":
        """Measures a network on a few batches.

        Args:
            run: The dense network. One with several outputs is not called symmetric, because a mirrored image may
                change some of them and not others.
            batches: Batches of inputs.
        """
        same: list[Tensor] = []
        seen: list[Tensor] = []
        for feeds in batches:
            if not is_image(feeds):
                return Views()
            with torch.no_grad():
                results = run(feeds)
                if len(results) > 1 or not _is_classes(results[0]):
                    return Views(images=True)
                outputs = torch.stack([run((view,))[0].float() for view in make_shifted_views(feeds[0])])
            classes = outputs.argmax(-1)
            same.append((classes == classes[0]).T)
            seen.append(outputs)
        if not same:
            return Views()
        shares = torch.cat(same).double().mean(0)
        turned, moved = float(shares[1]), float(shares[2::2].mean())
        return Views(
            images=True, symmetric=min(turned, moved) >= SAME and _measure_change(torch.cat(seen, 1)) <= CHANGE
        )

    def changed(self, feeds: Inputs, generator: torch.Generator) -> Inputs:
        """Shifts each image at random and, where the network is symmetric, mirrors half of them."""
        if not self.images:
            return feeds
        (images,) = feeds
        if self.symmetric:
            turned = torch.rand(len(images), generator=generator) < 0.5  # noqa: PLR2004 (half)
            images = torch.where(turned[:, None, None, None], images.flip(-1), images)
        return (shift_at_random(images, generator),)


def _measure_change(outputs: Tensor) -> float:
    """Measures the squared change of outputs [views, N, C] by the worst view, divided by their variance over images."""
    changed = (outputs - outputs[0]).square().sum(-1).mean(1).max()
    return float(changed / outputs[0].var(0, correction=0).sum().clamp_min(torch.finfo(torch.float32).tiny))


def _is_classes(output: Tensor) -> bool:
    """Whether an output is a float matrix [N, C] with a score for each of several classes."""
    return output.ndim == 2 and output.shape[1] > 1 and output.is_floating_point()  # noqa: PLR2004


def is_image(feeds: Inputs) -> bool:
    """Whether the only input is a batch of images: float [N, C, H, W], at most 4 channels, sides of 16 or more."""
    if len(feeds) != 1 or feeds[0].ndim != AXES or not feeds[0].is_floating_point():
        return False
    _, channels, height, width = feeds[0].shape
    return channels <= MOST_CHANNELS and min(height, width) >= LEAST_SIDE


def make_mirrored_views(images: Tensor) -> Iterator[Tensor]:
    """Yields the images [N, C, H, W] as they are, and with left and right exchanged."""
    yield images
    yield images.flip(-1)


def make_shifted_views(images: Tensor) -> Iterator[Tensor]:
    """Yields eighteen views of images [N, C, H, W]: plain and mirrored, each at nine places.

    The places are shifted by nothing or by a sixteenth of a side in each direction.
    """
    _, _, height, width = images.shape
    far = max(1, min(height, width) // (2 * SHIFT))
    padded = F.pad(images, (far,) * 4, mode="reflect")
    for y, x in itertools.product((far, 0, 2 * far), repeat=2):
        yield from make_mirrored_views(padded[:, :, y : y + height, x : x + width])


def shift_at_random(images: Tensor, generator: torch.Generator) -> Tensor:
    """Shifts each image by up to an eighth of a side; its edge is mirrored into the gap."""
    _, _, height, width = images.shape
    most = max(1, min(height, width) // SHIFT)
    padded = F.pad(images, (most,) * 4, mode="reflect")
    places = torch.randint(0, 2 * most + 1, (len(images), 2), generator=generator).tolist()
    return torch.stack([image[:, y : y + height, x : x + width] for image, (y, x) in zip(padded, places, strict=True)])
