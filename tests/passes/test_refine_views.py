"""Images seen otherwise: symmetry is measured, a shift moves and keeps, outputs of both views are averaged."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from prox24_export.passes.refine_views import Views, is_image, mirror, shifted


def images(count: int = 32, channels: int = 3, side: int = 16) -> Tensor:
    return torch.randn(count, channels, side, side, generator=torch.Generator().manual_seed(0))


def left_or_right(feeds: tuple[Tensor, ...]) -> list[Tensor]:
    """Two classes by which half is brighter: a mirror exchanges them."""
    half = feeds[0].shape[-1] // 2
    return [torch.stack([feeds[0][..., :half].mean((1, 2, 3)), feeds[0][..., half:].mean((1, 2, 3))], 1)]


def by_channel(feeds: tuple[Tensor, ...]) -> list[Tensor]:
    """Classes by the brightest channel: a mirror changes nothing."""
    return [feeds[0].mean((2, 3))]


def test_a_network_that_a_mirror_does_not_disturb_is_symmetric() -> None:
    assert Views.measured(by_channel, [(images(),)]) == Views(images=True, mirrored=True)


def test_a_network_that_tells_left_from_right_is_not() -> None:
    assert Views.measured(left_or_right, [(images(),)]) == Views(images=True, mirrored=False)


@pytest.mark.parametrize(
    "feeds",
    [
        (torch.zeros(4, 16, 16),),
        (torch.zeros(4, 8, 16, 16),),  # features
        (torch.zeros(4, 3, 16, 8),),  # a spectrogram's narrow side
        (torch.zeros(4, 3, 16, 16, dtype=torch.uint8),),
        (torch.zeros(4, 3, 16, 16), torch.zeros(4)),
    ],
)
def test_what_is_no_image_stays_as_it_is(feeds: tuple[Tensor, ...]) -> None:
    assert not is_image(feeds)
    views = Views.measured(by_channel, [feeds])
    assert views == Views()
    assert views.changed(feeds, torch.Generator()) is feeds


def test_a_network_with_a_second_output_is_not_called_symmetric() -> None:
    both = Views.measured(lambda feeds: by_channel(feeds) + left_or_right(feeds), [(images(),)])
    assert both == Views(images=True, mirrored=False)


def test_outputs_that_are_no_classes_are_not_averaged() -> None:
    assert Views.measured(list, [(images(),)]) == Views(images=True)


@given(st.integers(16, 40), st.integers(16, 40), st.integers(0, 99))
def test_a_shift_keeps_the_image_but_for_its_edge(height: int, width: int, seed: int) -> None:
    batch = torch.arange(2 * 3 * height * width, dtype=torch.float32).reshape(2, 3, height, width)
    moved = shifted(batch, torch.Generator().manual_seed(seed))
    most = max(1, min(height, width) // 8)
    assert moved.shape == batch.shape
    for before, after in zip(batch, moved, strict=True):
        inner = after[:, most : height - most, most : width - most]
        y, x = divmod(int(inner[0, 0, 0] - before[0, 0, 0]), width)
        assert max(abs(y - most), abs(x - most)) <= most
        assert torch.equal(inner, before[:, y : y + inner.shape[1], x : x + inner.shape[2]])


def test_a_symmetric_networks_images_are_mirrored_sometimes_and_others_never() -> None:
    batch = images(count=64, side=32)

    def mirrored(views: Views) -> int:
        (seen,) = views.changed((batch,), torch.Generator().manual_seed(1))
        places = [
            min(
                float((seen[index][:, 8:24, 8:24] - source[:, y : y + 16, x : x + 16]).abs().max())
                for y in range(4, 13)
                for x in range(4, 13)
            )
            for index, source in enumerate(batch.flip(-1))
        ]
        return sum(place == 0 for place in places)

    assert 16 < mirrored(Views(images=True, mirrored=True)) < 48
    assert mirrored(Views(images=True)) == 0


def test_the_first_outputs_are_the_mean_of_both_views_and_the_others_are_not() -> None:
    batch = (images(),)
    plain, turned = left_or_right(batch)[0], left_or_right(mirror(batch))[0]
    both = Views(images=True, mirrored=True).outputs(lambda feeds: left_or_right(feeds) * 2, batch, 1)
    torch.testing.assert_close(both[0], (plain + turned) / 2)
    assert torch.equal(both[1], plain)
    assert torch.equal(Views(images=True).outputs(left_or_right, batch, 1)[0], plain)
