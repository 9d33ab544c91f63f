"""Text through a tokenizer: rows, windows, and the perplexity of windows."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from prox24_export import Settings, export
from prox24_export.data import text
from prox24_export.errors import InputError
from prox24_export.validation.perplexity import Perplexity
from tests.graphs import normal
from tests.models.transformers_models import saved, transformers

TRUNCATION = {"direction": "Right", "max_length": 1, "strategy": "LongestFirst", "stride": 5}
WORDS = [f"w{index}" for index in range(90)]


def with_tokenizer(folder: Path, *, bos: bool) -> Path:
    """A tokenizer of words: `w7` is token 13, <s> is token 1."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors  # noqa: PLC0415 - comes with transformers

    names = ["<pad>", "<s>", "</s>", "<unk>", "<a>", "<b>", *WORDS]
    tokenizer = Tokenizer(models.WordLevel({name: index for index, name in enumerate(names)}, unk_token="<unk>"))  # noqa: S106
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>").save_pretrained(folder)  # noqa: S106
    return folder


def written(folder: Path, words: int) -> Path:
    (folder / "text.txt").write_text(" ".join(WORDS[index % 90] for index in range(words)), encoding="utf-8")
    return folder / "text.txt"


def test_a_text_becomes_rows_with_the_special_tokens_of_an_input(tmp_path: Path) -> None:
    file = written(tmp_path, 10)
    plain = text.read_token_rows(file, with_tokenizer(tmp_path / "plain", bos=False), 4, None, "--calibration")
    assert plain.tolist() == [[6, 7, 8, 9], [10, 11, 12, 13]]  # the incomplete last row is left out
    begun = text.read_token_rows(file, with_tokenizer(tmp_path / "bos", bos=True), 4, None, "--calibration")
    assert begun.tolist() == [[1, 6, 7, 8], [1, 9, 10, 11], [1, 12, 13, 14]]
    windows = text.read_token_rows(file, tmp_path / "plain", 4, 2, "--evaluation")
    assert windows[:, 0].tolist() == [6, 8, 10, 12]
    assert text.read_token_rows(file, tmp_path / "plain", 64, None, "--calibration").shape == (1, 10)


def test_unsuitable_texts_are_refused(tmp_path: Path) -> None:
    file = written(tmp_path, 10)
    with pytest.raises(InputError, match=r"there is no tokenizer at .*tokenizer\.json\. Give --tokenizer"):
        text.read_token_rows(file, text.find_tokenizer(tmp_path / "model.onnx"), 4, None, "--calibration")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="cannot be loaded"):
        text.read_token_rows(file, tmp_path / "empty", 4, None, "--calibration")
    folder = with_tokenizer(tmp_path / "plain", bos=False)
    for content, said in ((b"", "holds no token"), (b"\xff\xfe\xff", "Expected UTF-8 text")):
        file.write_bytes(content)
        with pytest.raises(InputError, match=said):
            text.read_token_rows(file, folder, 4, None, "--calibration")


def test_windows_count_every_token_once_with_the_context_that_a_window_holds() -> None:
    stream, length, stride = np.arange(11) % 5, 5, 2
    logits = {start: normal(1, length, 5, seed=start) for start in range(0, 7, stride)}
    measured = Perplexity(stride)
    expected = []
    for start, values in logits.items():
        row = stream[start : start + length][None]
        measured.add(values, values, row)
        log = torch.log_softmax(torch.from_numpy(values).double(), -1)[0]
        first = 1 if start == 0 else length - stride
        expected += [-float(log[place - 1, row[0, place]]) for place in range(first, length)]
    ((name, rows),) = measured.rows()
    assert name == "perplexity"
    assert rows.weight.sum() == len(expected) == 10
    assert rows.values() == pytest.approx(2 * [math.exp(np.mean(expected))])


@pytest.mark.parametrize(
    ("part", "said"),
    [
        ({"pre_tokenizer": {"type": "FixedLength", "length": 0}}, "cannot read it: chunk size must be non-zero"),
        ({"truncation": TRUNCATION}, "cannot be loaded: "),
        ({"model": {"type": "none"}}, "cannot be loaded: "),
    ],
)
def test_a_tokenizer_that_fails_is_one_sentence(
    part: dict[str, Any], said: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = with_tokenizer(tmp_path / "odd", bos=False)
    file = folder / "tokenizer.json"
    file.write_text(json.dumps(json.loads(file.read_bytes()) | part), encoding="utf-8")
    with pytest.raises(InputError, match=rf"the tokenizer of .* {said}") as told:
        text.read_token_rows(written(tmp_path, 10), folder, 4, None, "--calibration")
    assert "\n" not in str(told.value)
    assert capfd.readouterr().err == ""


def test_an_interruption_of_a_tokenizer_stays_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_arguments: Any, **_options: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", interrupt)
    with pytest.raises(KeyboardInterrupt):
        text.read_token_rows(written(tmp_path, 10), tmp_path, 4, None, "--calibration")


def test_a_batch_of_windows_is_the_same_as_one_by_one() -> None:
    logits, tokens = normal(4, 6, 5), np.random.default_rng(0).integers(0, 5, (4, 6))
    whole, single = Perplexity(2), Perplexity(2)
    whole.add(logits, logits, tokens)
    for index in range(4):
        single.add(logits[index : index + 1], logits[index : index + 1], tokens[index : index + 1])
    ((_, one),), ((_, other),) = whole.rows(), single.rows()
    assert one.weight.tolist() == other.weight.tolist() == [5, 2, 2, 2]
    assert one.values() == pytest.approx(other.values())


def test_a_language_model_calibrated_and_evaluated_on_text(tmp_path: Path) -> None:
    saved("llama", tmp_path / "dense")
    with_tokenizer(tmp_path / "dense", bos=True)
    file = written(tmp_path, 400)
    settings = Settings(sequence=16, stride=4, samples=10)
    report = export(tmp_path / "dense", file, tmp_path / "out", evaluation=file, settings=settings)
    assert report.accuracy is not None
    assert report.accuracy.samples == (400 - 15) // 4 + 1
    assert report.accuracy.dense["perplexity"] > 1
    assert (tmp_path / "out" / "model" / "tokenizer.json").is_file()


def test_a_stride_needs_a_text(tmp_path: Path) -> None:
    saved("llama", tmp_path / "dense")
    with pytest.raises(InputError, match="--stride is for windows over one text"):
        export(tmp_path / "dense", out=tmp_path / "out", settings=Settings(stride=4))
