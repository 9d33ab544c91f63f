"""Lines of JSON as text, a tokenizer in a file of its own, and models that take more than token ids."""

import json
import struct
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from prox24_export.data import text
from prox24_export.data.text import name_token_rows, read_token_rows
from prox24_export.passes.graph.protocol import Input
from tests.data.sample_sources import refused

transformers: Any = pytest.importorskip("transformers", reason="transformers is not installed")


def words_tokenizer(folder: Path) -> Path:
    """A tokenizer file of words: `w7` is token 8."""
    from tokenizers import Tokenizer, models, pre_tokenizers  # noqa: PLC0415 - comes with transformers

    names = ["<unk>", *(f"w{index}" for index in range(20))]
    tokenizer = Tokenizer(models.WordLevel({name: index for index, name in enumerate(names)}, unk_token="<unk>"))  # noqa: S106
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder / "tokenizer.json"


def written(folder: Path, *lines: object) -> Path:
    file = folder / "texts.jsonl"
    file.write_text(
        "".join(line if isinstance(line, str) else f"{json.dumps(line)}\n" for line in lines), encoding="utf-8"
    )
    return file


def test_texts_of_lines_are_read_one_after_the_other(tmp_path: Path) -> None:
    file = written(
        tmp_path, {"text": "w0 w1 w2"}, "\n", {"content": "w3", "label": 1}, {"prompt": "w4 w5"}, '"w6 w7"\n'
    )
    rows = read_token_rows(file, words_tokenizer(tmp_path), 4, None, "--calibration")
    assert rows.tolist() == [[1, 2, 3, 4], [5, 6, 7, 8]]


@pytest.mark.parametrize("name", ["label", "labels"])
def test_labels_of_lines_are_of_no_use_and_refused_where_they_would_count(name: str, tmp_path: Path) -> None:
    file = written(tmp_path, {"text": "w0 w1"}, {"text": "w2 w3", name: 1})
    assert len(read_token_rows(file, words_tokenizer(tmp_path), 4, None, "--calibration")) == 1
    with refused(
        f"texts.jsonl, line 2, has a field '{name}', and lines are read as one text, whose rows have no label."
    ):
        read_token_rows(file, words_tokenizer(tmp_path), 4, None, "--evaluation")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{'text': 1}\n", "texts.jsonl, line 2, is no JSON: Expecting property name"),
        ({"words": "w0", "id": 3}, "line 2, holds ['id', 'words']. Expected a text under text, content, prompt"),
        ({"text": ["w0"]}, "line 2, holds ['text']. Expected a text under"),
        ([1, 2], "line 2, holds list. Expected a text under"),
    ],
)
def test_a_line_without_a_text_is_told_by_its_number(line: object, said: str, tmp_path: Path) -> None:
    file = written(tmp_path, {"text": "w0"}, line)
    with refused(said):
        read_token_rows(file, words_tokenizer(tmp_path), 4, None, "--calibration")


def test_a_tokenizer_beside_an_onnx_file_is_found_and_one_that_is_none_is_told(tmp_path: Path) -> None:
    assert text.find_tokenizer(tmp_path / "model.onnx") == tmp_path / "tokenizer.json"
    assert text.find_tokenizer(tmp_path) == tmp_path
    (tmp_path / "tokenizer.json").write_text("{}")
    with refused("tokenizer.json cannot be loaded: "):
        read_token_rows(written(tmp_path, {"text": "w0"}), tmp_path / "tokenizer.json", 4, None, "--calibration")


def integers(*names: str) -> tuple[Input, ...]:
    return tuple(Input(name, np.dtype(np.int64), ("N", "T")) for name in names)


def test_what_follows_from_token_ids_is_given_too() -> None:
    ids = np.arange(6).reshape(2, 3)
    found = name_token_rows(ids, integers("input_ids", "attention_mask", "token_type_ids", "position_ids"), "d")
    assert found["input_ids"] is ids
    assert found["attention_mask"].tolist() == [[1, 1, 1]] * 2
    assert found["token_type_ids"].tolist() == [[0, 0, 0]] * 2
    assert found["position_ids"].tolist() == [[0, 1, 2]] * 2
    assert name_token_rows(ids, integers("attention_mask"), "d") == {"attention_mask": ids}  # the only input
    with refused("d is text, and the model takes input_ids, past. Expected a model of token ids, and beside them only"):
        name_token_rows(ids, integers("input_ids", "past"), "d")


def read_vocabulary(file: Path) -> list[tuple[str, float]]:
    """Reads the tokens and scores of a tokenizer in the format of llama2.c."""
    content = file.read_bytes()
    found, place = [], 4
    while place < len(content):
        score, length = struct.unpack_from("<fi", content, place)
        found.append((content[place + 8 : place + 8 + length].decode(), score))
        place += 8 + length
    return found


def stories_tokenizer(file: Path, folder: Path) -> Path:
    """Writes that tokenizer as a tokenizer.json: merges in the order of the scores, bytes for what is in no token."""
    from tokenizers import Tokenizer, decoders, models, normalizers  # noqa: PLC0415 - comes with transformers

    tokens = [
        (token.strip("\n") if index in {1, 2} else token.replace(" ", "▁"), score)
        for index, (token, score) in enumerate(read_vocabulary(file))
    ]
    places = {token: index for index, (token, _) in enumerate(tokens)}
    merges = [
        (-score, token[:cut], token[cut:])
        for token, score in tokens
        for cut in range(1, len(token))
        if token[:cut] in places and token[cut:] in places and places[token] > 258
    ]
    pairs = [(left, right) for _, left, right in sorted(merges, key=lambda merge: merge[0])]
    model = models.BPE(places, pairs, unk_token="<unk>", byte_fallback=True, fuse_unk=True)  # noqa: S106
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder / "tokenizer.json"


def test_lines_through_the_tokenizer_of_stories_give_the_tokens_that_its_model_reads(
    shared_data: Path, tmp_path: Path
) -> None:
    place = stories_tokenizer(shared_data / "lm" / "tok512.bin", tmp_path)
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_file=str(place))
    with np.load(shared_data / "lm" / "tokens.npz") as arrays:
        stream = arrays["test"].reshape(-1)
    starts = np.flatnonzero(stream == 1)[:9]  # of stories
    stories = [stream[start + 1 : stop] for start, stop in pairwise(starts)]
    for story in stories:
        file = written(tmp_path, {"text": tokenizer.decode(story)})
        assert read_token_rows(file, place, len(story), None, "--calibration").tolist() == [story.tolist()]
