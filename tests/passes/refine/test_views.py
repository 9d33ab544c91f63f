"""Images seen otherwise: symmetry is measured, a shift moves and keeps, views of an image make up one target."""

from collections.abc import Iterable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, fx, nn
from torch.func import functional_call

from prox24_export.passes.refine.loss import OutputLoss
from prox24_export.passes.refine.model import RefineModel
from prox24_export.passes.refine.objective import Objective
from prox24_export.passes.refine.state import Refined
from prox24_export.passes.refine.views import Views, is_image, make_mirrored_views, make_shifted_views, shift_at_random


def images(count: int = 32, channels: int = 3, side: int = 16) -> Tensor:
    return torch.randn(count, channels, side, side, generator=torch.Generator().manual_seed(0))


def left_or_right(feeds: tuple[Tensor, ...]) -> list[Tensor]:
    """Two classes by which half is brighter: a mirror exchanges them."""
    half = feeds[0].shape[-1] // 2
    return [torch.stack([feeds[0][..., :half].mean((1, 2, 3)), feeds[0][..., half:].mean((1, 2, 3))], 1)]


def by_channel(feeds: tuple[Tensor, ...]) -> list[Tensor]:
    """Classes by the brightest channel: a mirror changes nothing."""
    return [feeds[0].mean((2, 3))]


def test_a_network_that_neither_mirror_nor_shift_disturbs_is_symmetric() -> None:
    assert Views.measure(by_channel, [(images(),)]) == Views(images=True, symmetric=True)


@pytest.mark.parametrize("name", ["left or right", "one column's colour"])
def test_a_network_that_one_of_them_disturbs_is_not(name: str) -> None:
    run = left_or_right if name == "left or right" else lambda feeds: [feeds[0][..., 5:7, 7:9].mean((2, 3))]
    assert Views.measure(run, [(images(),)]) == Views(images=True, symmetric=False)


def test_a_place_in_the_image_is_not_a_class_though_its_arg_max_stays() -> None:
    columns = torch.arange(16) / 100

    def brightest(feeds: tuple[Tensor, ...]) -> list[Tensor]:
        """The place of the brightness from the left, and a constant that is always larger."""
        share = feeds[0].mean((1, 2)).softmax(-1)
        return [torch.stack([share @ columns, torch.ones(len(share))], 1)]

    assert Views.measure(brightest, [(images(),)]) == Views(images=True, symmetric=False)


def test_without_images_nothing_is_known() -> None:
    assert Views.measure(by_channel, []) == Views()


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
    views = Views.measure(by_channel, [feeds])
    assert views == Views()
    assert views.changed(feeds, torch.Generator()) is feeds


def test_a_network_with_a_second_output_is_not_called_symmetric() -> None:
    both = Views.measure(lambda feeds: by_channel(feeds) + left_or_right(feeds), [(images(),)])
    assert both == Views(images=True, symmetric=False)


def test_outputs_that_are_no_classes_are_not_averaged() -> None:
    assert Views.measure(list, [(images(),)]) == Views(images=True)


@given(st.integers(16, 40), st.integers(16, 40), st.integers(0, 99))
def test_a_shift_keeps_the_image_but_for_its_edge(height: int, width: int, seed: int) -> None:
    batch = torch.arange(2 * 3 * height * width, dtype=torch.float32).reshape(2, 3, height, width)
    moved = shift_at_random(batch, torch.Generator().manual_seed(seed))
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

    assert 16 < mirrored(Views(images=True, symmetric=True)) < 48
    assert mirrored(Views(images=True)) == 0


def test_there_are_eighteen_views_all_different_the_image_first_and_its_mirror_second() -> None:
    batch = images(side=32)
    seen = list(make_shifted_views(batch))
    assert len(seen) == 18
    assert torch.equal(seen[0], batch)
    assert torch.equal(seen[1], batch.flip(-1))
    assert not any(torch.equal(one, other) for place, one in enumerate(seen) for other in seen[:place])
    places = {(y, x): batch[..., y : y + 28, x : x + 28] for y in (0, 2, 4) for x in (0, 2, 4)}
    assert all(any(torch.equal(view[..., 2:30, 2:30], place) for place in places.values()) for view in seen[::2])


class Colours(nn.Module):
    """Logits, three classes, far apart enough to be decided."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3 * 16 * 16, 3)

    def forward(self, x: Tensor) -> tuple[Tensor]:
        return (20 * self.linear(x.flatten(1)),)


def test_the_target_of_a_symmetric_network_is_the_mean_distribution_of_its_views() -> None:
    torch.manual_seed(0)
    module = fx.symbolic_trace(Colours())
    pair = ((images(),), (images(),))
    moved = {"linear.weight": module.get_parameter("linear.weight").detach() * 0.9}
    plain = Objective(module).fitted([pair], 1)
    objective = Objective(module, together=True).fitted([pair], 1)
    assert [plain.outputs[0].kind, objective.outputs[0].kind] == ["logits", "kl"]

    def wanted(views: Iterable[Tensor]) -> Tensor:
        mean = torch.stack([module(view)[0].softmax(-1) for view in views]).mean(0)
        got = functional_call(module, moved, (images(),))[0].log_softmax(-1)
        divergence: Tensor = (mean * (mean.log() - got)).sum(-1)
        return divergence

    with torch.no_grad():
        torch.testing.assert_close(objective.of(moved, pair), wanted(make_mirrored_views(images())))
        torch.testing.assert_close(objective.held(lambda: [pair])(moved), wanted(make_shifted_views(images())))
        torch.testing.assert_close(plain.held(lambda: [pair])(moved), plain.of(moved, pair))


def test_of_other_measures_the_mean_of_the_outputs_is_the_target() -> None:
    torch.manual_seed(0)
    module = fx.symbolic_trace(Colours())
    pair = ((images(),), (images(),))
    objective = Objective(module, (OutputLoss("mse"),), together=True)
    with torch.no_grad():
        mean = torch.stack([module(view)[0] for view in make_mirrored_views(images())]).mean(0)
        wanted = objective.outputs[0].of(module(images())[0], mean, 32)
        torch.testing.assert_close(objective.of({}, pair), wanted)


class Brightest(nn.Module):
    """Logits from a convolution's mean: neither a mirror nor a shift changes much."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 8, 3, padding=1)

    def forward(self, x: Tensor) -> tuple[Tensor]:
        return (30 * self.convolution(x).mean((2, 3)),)


def test_views_are_the_target_where_they_are_asked_for_and_the_network_is_symmetric() -> None:
    torch.manual_seed(0)
    module, name = fx.symbolic_trace(Brightest()), "convolution.weight"
    dense = module.get_parameter(name).detach()
    pruned = torch.where(dense.abs() >= dense.abs().median(), dense, torch.zeros(()))
    batches = [(image[None],) for image in images(count=96) + 0.5 * torch.randn(96, 3, 1, 1)]

    def run(settings: RefineModel) -> Refined:
        return settings.call(
            dense=module, weights={name: pruned}, masks={name: pruned != 0}, fit=batches[:64], choice=batches[64:]
        )

    results = [run(RefineModel(target="views")), run(RefineModel()), run(RefineModel(target="views", mixed=False))]
    assert [result.target for result in results] == ["views", "dense", "dense"]
    for result in results:
        assert result.kept
        assert result.after < 0.8 * result.before
