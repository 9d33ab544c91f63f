"""Builder logs of any names, prefix and wrapping: what is read is right, or its doubt is told."""

from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from prox24_export.engines.diagnosis import builder_log
from prox24_export.engines.diagnosis.builder_log import SparsityLog
from tests.engines.diagnosis.builder_logs import PREFIXES, lists, pair, prefix

NOISE = (
    "Registering layer: node_{n} for ONNX node: node_{n}",
    "Finalize: node_conv2d_{n} + node_relu_{n} Set kernel index: {n}",
    "Total Weights Memory: {n} bytes",
    "--------------- Timing Runner: node_conv2d_{n} (CaskConvolution[0x80000009])",
    "Tactic Name: sm80_xmma_fprop_sparse_conv_f16f16_f16f16_f16_nhwckrsc_nhwc_{n} Tactic: 0x93af0e4f5f3d Time: 0.01{n}",
    " (foreignNode)   64, 0.0237376, 3.64700, 0.56798, sm80_xmma_gemm_f32f32_tf32f32_f32_tn_n_{n}, 0x51b1ce23e48aa,",
    "Subgraph compilation completed in {n}.926 seconds.",
)

# A node's name may hold nearly anything; TensorRT's separators are the only thing that cannot be told from a name.
WORD = st.text("abXYZ019_/.:-[]{}()<>@#~é", min_size=1, max_size=18).filter(
    lambda word: not word.startswith(("PWN", "(S", "(f", "["))
)
SPACED = st.sampled_from(["node_linear [profile 1]", "(Unnamed Layer* 1) [Convolution]", "{ForeignNode[/a/b.../c d]}"])
NAME = st.lists(WORD | SPACED, min_size=1, max_size=3).map(" + ".join)
NAMES = st.lists(NAME, max_size=9, unique=True)
PREFIXED = st.sampled_from(sorted(set(PREFIXES) - {"bare"}))


@st.composite
def logs(draw: st.DrawFn, styles: st.SearchStrategy[str]) -> tuple[list[str], list[str], list[str]]:
    """Lines of a log with repeated pairs and noise between them; the lists that have to be read from it."""
    old = draw(st.booleans())
    lines: list[str] = []
    foreign: list[tuple[list[str], list[str]]] = []
    last: tuple[list[str], list[str]] = ([], [])

    def noise() -> None:
        for _ in range(draw(st.integers(0, 3))):
            message = draw(st.sampled_from(NOISE)).format(n=draw(st.integers(0, 999)))
            lines.append(prefix(draw(styles), verbose=True) + message)

    for _ in range(draw(st.integers(1, 3))):
        eligible = draw(NAMES)
        chosen = [name for name in eligible if draw(st.booleans())]
        is_foreign = not old and draw(st.booleans())
        noise()
        first, second = pair(eligible, chosen, draw(styles), old=old, foreign=is_foreign)
        lines.append(first)
        noise()
        lines.append(second)
        if is_foreign:
            foreign.append((eligible, chosen))
        else:
            last = (eligible, chosen)
    noise()
    assume(any(last) or foreign)
    united = [list(dict.fromkeys(name for found in (*foreign, last) for name in found[index])) for index in range(2)]
    return lines, united[0], united[1]


@given(logs(PREFIXED))
def test_any_log_with_prefixes_is_read_exactly(log: tuple[list[str], list[str], list[str]]) -> None:
    lines, eligible, chosen = log
    found = builder_log.parse("\n".join(lines))
    assert lists(found) == (eligible, chosen)
    assert not found.problems


def wrap_once(name: str, end: int) -> tuple[tuple[list[str], list[str], list[str]], int, bool]:
    """A log whose only full line ends within a name, after so many of its characters, one of them a space."""
    lines = list(pair([name], [], min(set(PREFIXES) - {"bare"})))
    return (lines, [name], []), lines[0].index(name) + end, True


@given(logs(PREFIXED), st.integers(24, 160), st.booleans())
@example(*wrap_once("(Unnamed Layer* 1) [Convolution]", len("(Unnamed ")))
@example(*wrap_once("(Unnamed Layer* 1) [Convolution]", len("(Unnamed Layer* ")))
@example(*wrap_once("(Unnamed Layer* 1) [Convolution]", len("(Unnamed Layer* 1) ")))
@example(*wrap_once("node_linear [profile 1]", len("node_linear ")))
@example(*wrap_once("node_linear [profile 1]", len("node_linear [profile ")))
@settings(max_examples=300)
def test_any_log_is_read_exactly_wherever_a_terminal_wraps_it(
    log: tuple[list[str], list[str], list[str]], width: int, stripped: bool
) -> None:
    lines, eligible, chosen = log
    pieces = [line[start : start + width] for line in lines for start in range(0, len(line), width)]
    text = "\n".join(piece.rstrip() if stripped else piece for piece in pieces)
    assert lists(builder_log.parse(text)) == (eligible, chosen)


@given(logs(st.sampled_from(sorted(PREFIXES))))
@settings(max_examples=300)
def test_bare_messages_between_others_are_read_exactly_or_the_doubt_is_told(
    log: tuple[list[str], list[str], list[str]],
) -> None:
    lines, eligible, chosen = log
    found = builder_log.parse("\n".join(lines))
    assert lists(found) == (eligible, chosen) or found.problems


@given(logs(st.just("bare")))
def test_messages_at_hand_one_by_one_leave_no_doubt(log: tuple[list[str], list[str], list[str]]) -> None:
    lines, eligible, chosen = log
    found = builder_log.parse_messages(lines)
    assert lists(found) == (eligible, chosen)
    assert not found.problems


@given(NAMES.filter(lambda names: len(names) > 1), st.data())
@example(["a", "b"], None)
def test_a_list_that_is_cut_is_never_taken_for_whole(names: list[str], data: st.DataObject | None) -> None:
    found, _ = pair(names, [], "python")
    start = found.index("tactics: ") + len("tactics: ")
    # Cut before the last separator: with all separators there, the number of names is right and nothing can be told.
    end = found.rindex(", ") if data is None else data.draw(st.integers(start, found.rindex(", ")))
    log = builder_log.parse(found[:end])
    assert log.eligible is not None
    assert not log.eligible.is_complete
    assert log.problems


@given(st.text("(Sparsity) Found1layer:,+ tacs\n[]TRV-", max_size=300))
@example("(Sparsity) Found 1 layer(s) eligible to use sparse tactics:\n\n")
@example("")
def test_no_text_is_too_strange(text: str) -> None:
    assert isinstance(builder_log.parse(text), SparsityLog)
