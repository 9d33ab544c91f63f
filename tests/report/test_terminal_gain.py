"""What `inspect --gpu` prints: a row for each shape, the verdict, and where its figures come from."""

from dataclasses import replace

import pytest

from prox24_export.report import terminal_gain
from prox24_export.results.gain import GpuGain, LayerGain

LIKELY = LayerGain("mlp", 4096, 11008, 512, 1.98, 1.9, "compute", "memory", True, "waits for arithmetic in fp16")
SMALL = LayerGain("head", 64, 12, 1, 1.4, 1.3, "memory", "memory", False, "fewer than 256 channels")
GAIN = GpuGain(
    "NVIDIA X1", "https://example.org/x1.pdf", {"ids": (1, 512)}, (LIKELY, LIKELY, SMALL), 1.9, 1.8, 1.7, 1.6
)


def test_layers_of_one_shape_share_a_row_and_no_line_is_longer_than_the_terminal() -> None:
    lines = terminal_gain.gain_table(replace(GAIN, not_counted=("3 × Loop: inside",))).splitlines()
    assert lines[1] == "the most that 2:4 can gain on NVIDIA X1, with inputs ids [1, 512]:"
    assert lines[3].split() == ["2", "4096", "11008", "512", "1.98", "×", "1.90", "×", *LIKELY.reason.split()]
    assert lines[4].split()[:4] == ["1", "64", "12", "1"]
    assert lines[5] == "not counted: 3 × Loop: inside"
    assert lines[-1] == "rates: https://example.org/x1.pdf"
    assert "not measurements" in " ".join(lines)
    assert max(map(len, lines)) <= 100


@pytest.mark.parametrize(
    ("fp16", "int8", "said"),
    [
        (1.7, 1.0, "Worth a try: the linear layers are at most 1.70 times as fast in fp16 and 1.00 in int8; 2 of 3"),
        (1.0, 1.2, "Worth a try: "),
        (1.1, 1.06, "Hardly: the linear layers are at most 1.10 times"),
        (1.04, 1.01, "No: the linear layers are at most 1.04 times"),
    ],
)
def test_the_verdict_follows_the_better_precision(fp16: float, int8: float, said: str) -> None:
    told = terminal_gain.describe_worth(replace(GAIN, fp16_likely=fp16, int8_likely=int8))
    assert told.startswith(f"Is it worth it? {said}")
    assert told.endswith("2 of 3 layers have a shape that may gain.")


def test_where_no_layer_may_gain_the_most_frequent_reason_is_told() -> None:
    told = terminal_gain.describe_worth(replace(GAIN, layers=(SMALL, replace(SMALL, reason="other"), SMALL)))
    assert told == (
        "Is it worth it? No: 0 of 3 layers have a shape that may gain; most often, fewer than 256 channels."
    )
    assert "No: 0 of 0 layers have a shape that may gain." in terminal_gain.describe_worth(replace(GAIN, layers=()))
