"""What `inspect --gpu` prints: what 2:4 could gain on a GPU, and whether that is worth it."""

from collections.abc import Sequence
from io import StringIO

from prox24_export.results.gain import GpuGain, LayerGain

WIDTH = 100
ASK_FOR_GPU = "is it worth it? name the GPU that it will run on, such as --gpu a100 (prox24-export inspect --help)\n"
MUCH, SOME = 1.2, 1.05  # where a try is worth its time, and where a gain would hardly be measured
NOT_MEASURED = (
    "These are bounds from shapes and data sheets, not measurements: activations, softmax and normalisation take time, "
    "too, and TensorRT keeps a dense kernel where that is faster."
)


def gain_table(gain: GpuGain) -> str:
    """A row for each shape of layer, and the verdict in a sentence, at most 100 columns wide."""
    from rich.console import Console  # noqa: PLC0415 (only the table needs it)
    from rich.table import Table  # noqa: PLC0415

    table = Table(box=None, pad_edge=False)
    for title in ("layers", "K", "N", "tokens", "fp16", "int8"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("why", overflow="fold")
    for rows in _group(gain.layers):
        first = rows[0]
        table.add_row(
            f"{len(rows)}",
            *(f"{first.k}", f"{first.n}", f"{first.tokens}"),
            *(f"{first.fp16:.2f} ×", f"{first.int8:.2f} ×"),
            first.reason,
        )
    text = StringIO()
    console = Console(file=text, width=WIDTH, highlight=False, markup=False, emoji=False)
    shapes = ", ".join(f"{name} {list(shape)}" for name, shape in gain.inputs.items())
    console.print(f"\nthe most that 2:4 can gain on {gain.gpu}, with inputs {shapes}:")
    console.print(table)
    if gain.not_counted:
        console.print(f"not counted: {', '.join(gain.not_counted)}")
    console.print(f"{describe_worth(gain)} {NOT_MEASURED}")
    console.print(f"rates: {gain.source}", soft_wrap=True)
    return "".join(f"{line.rstrip()}\n" for line in text.getvalue().splitlines())


def describe_worth(gain: GpuGain) -> str:
    """Says in one sentence whether 2:4 is worth it on the GPU, and why."""
    likely = [layer for layer in gain.layers if layer.is_likely]
    best = max(gain.fp16_likely, gain.int8_likely)
    counts = f"{len(likely)} of {len(gain.layers)} layers have a shape that may gain"
    figures = f"at most {gain.fp16_likely:.2f} times as fast in fp16 and {gain.int8_likely:.2f} in int8"
    if not likely:
        most = max((layer.reason for layer in gain.layers), key=[row.reason for row in gain.layers].count, default="")
        return f"Is it worth it? No: {counts}{f'; most often, {most}' if most else ''}."
    if best >= MUCH:
        return f"Is it worth it? Worth a try: the linear layers are {figures}; {counts}."
    if best >= SOME:
        return f"Is it worth it? Hardly: the linear layers are {figures}; {counts}."
    return f"Is it worth it? No: the linear layers are {figures}, which is too little to be measured; {counts}."


def _group(layers: Sequence[LayerGain]) -> list[list[LayerGain]]:
    """Layers of the same figures together, in the order in which they first appear."""
    groups: dict[object, list[LayerGain]] = {}
    for layer in layers:
        groups.setdefault((layer.k, layer.n, layer.tokens, layer.fp16, layer.int8, layer.reason), []).append(layer)
    return list(groups.values())
