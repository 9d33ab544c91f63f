"""Example inputs of strangers: tensors and plain values are taken, and nothing is made of anything else."""

import builtins
import collections
import io
import pickle
import struct
import zipfile
from typing import Any

import pytest
import torch
from torch import nn

from prox24_export.models.program_samples import UnknownSampleError, expect_plain_samples

PLAIN = [
    (),
    ((torch.zeros(3), [1, None, "text", 10**30]), {"x": torch.zeros(2).expand(4, 2), "y": {1: 2.5}}),
    (nn.Parameter(torch.zeros(2, 3).T), torch.zeros(4)[1::2], torch.zeros(0, 5), torch.tensor(1.0)),
    (torch.float16, torch.device("cpu"), torch.Size([1, 2]), 2j, True, collections.OrderedDict(a=1)),
    tuple(torch.zeros(2, dtype=dtype) for dtype in (torch.bool, torch.int8, torch.bfloat16, torch.complex64)),
]


def archive(pickled: bytes, stored: bytes = b"") -> bytes:
    """What `torch.save` would write, around any pickle."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        entries = {"data.pkl": pickled, "byteorder": b"little", "version": b"3\n", "data/0": stored}
        for name, content in entries.items():
            file.writestr(f"archive/{name}", content)
    return buffer.getvalue()


def save(value: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def nest(depth: int, share: bool) -> Any:
    value: Any = (1,)
    for _ in range(depth):
        value = (value, value) if share else (value,)
    return value


def tensor(*, count: int = 4, offset: int = 0, size: int = 4, stride: int = 1, storage: str = "FloatStorage") -> bytes:
    """The pickle of one tensor of 16 stored bytes."""
    numbers = [b"J" + struct.pack("<i", number) for number in (count, offset, size, stride)]
    reference = b"(X\x07\x00\x00\x00storagectorch\n%s\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpu%stQ"
    start = b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(" + reference % (storage.encode(), numbers[0])
    return start + numbers[1] + numbers[2] + b"\x85" + numbers[3] + b"\x85\x89ccollections\nOrderedDict\n)RtR."


ODD = {
    "shared forty deep": (archive(pickle.dumps(nest(40, share=True), 2)), "more than 10,000 values"),
    "a bytearray of any size": (archive(b"\x80\x02cbuiltins\nbytearray\n\x8a\x05\0\0\0\0\x7f\x85R."), "bytearray"),
    "an encoder": (archive(pickle.dumps(b"bytes", 2)), "names _codecs.encode"),
    "a function": (archive(pickle.dumps(builtins.open, 2)), "names io.open"),
    "a function of torch": (archive(b"\x80\x02ctorch\nload\n."), "names torch.load"),
    "an instruction": (archive(b"\x80\x04\x8f."), "EMPTY_SET"),
    "a number of a value": (archive(b"\x80\x02Nr\xff\xff\xff\xff."), "more than"),
    "a function that is a value": (archive(b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n."), "holds a _make_tensor"),
    "a list in itself": (archive(b"\x80\x02]q\0h\0a."), "too many values within"),
    "torn": (archive(b"\x80\x02(("), "is no pickle"),
    "a bare pickle": (pickle.dumps((1,), 2), "none that torch.save wrote"),
    "a module": (save(nn.Linear(1, 1)), "instruction"),
    "a key": (save({"a b": 1}), "a key that is no name"),
    "a key of shared parts": (archive(b"\x80\x02}" + pickle.dumps(nest(40, share=True), 2)[2:-1] + b"Ns."), "a tuple"),
    "keys of shared parts": (archive(b"\x80\x02}(" + pickle.dumps(nest(40, share=True), 2)[2:-1] + b"Nu."), "a tuple"),
    "pairs of a dictionary": (archive(b"\x80\x02ccollections\nOrderedDict\n]\x85R."), "is no pickle of values"),
    "an entry that is not there": (save(1).replace(b"archive/data.pkl", b"archive/data.pk0"), "none that torch.save"),
    "compiled": (archive(b"\x80\x02N.").replace(b"byteorder", b"const.pkl"), "holds const.pkl"),
    "an expanded tensor": (save(torch.zeros(1).expand(1 << 20, 1 << 20)), "larger than what is stored"),
    "entries that are not there": (archive(tensor(count=8), bytes(16)), "tensor of 8 entries, and 16 bytes"),
    "entries of another size": (archive(tensor(storage="DoubleStorage"), bytes(16)), "tensor of 4 entries"),
    "a size": (archive(tensor(size=5), bytes(16)), "larger than"),
    "an offset": (archive(tensor(offset=1), bytes(16)), "larger than"),
    "an offset before": (archive(tensor(offset=-1), bytes(16)), "larger than"),
    "a stride": (archive(tensor(stride=2), bytes(16)), "larger than"),
}


@pytest.mark.parametrize("value", PLAIN)
def test_plain_values_are_taken(value: Any) -> None:
    expect_plain_samples(save(value))


def test_the_tensor_of_the_tests_below_is_one_of_torch() -> None:
    content = archive(tensor(), struct.pack("<4f", 1, 2, 3, 4))
    expect_plain_samples(content)
    assert torch.load(io.BytesIO(content), weights_only=True).tolist() == [1, 2, 3, 4]


def test_values_far_within_each_other_are_refused_without_recursion() -> None:
    expect_plain_samples(save(nest(90, share=False)))
    with pytest.raises(UnknownSampleError, match="too many values within each other"):
        expect_plain_samples(archive(b"\x80\x02)" + 100_000 * b"\x85" + b"."))


@pytest.mark.parametrize("odd", ODD)
def test_anything_else_is_refused(odd: str) -> None:
    content, said = ODD[odd]
    with pytest.raises(UnknownSampleError, match=said):
        expect_plain_samples(content)


def marked(**marks: Any) -> torch.Tensor:
    """An example input as torch.export leaves it where its sizes may change: with attributes."""
    value = torch.zeros(3, 2)
    value.__dict__.update(marks)
    return value


def test_what_torch_export_notes_on_an_example_input_is_taken() -> None:
    expect_plain_samples(save((marked(_specialize_on={0: []}, _dynamo_dynamic_range=[1, 2]),)))


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (marked(grad_fn=1), "the attribute grad_fn"),
        (marked(_specialize_on=torch.Size), "_make_size"),
        (torch.Tensor, "object"),
    ],
)
def test_other_attributes_of_a_tensor_and_its_class_are_refused(value: Any, said: str) -> None:
    with pytest.raises(UnknownSampleError, match=said):
        expect_plain_samples(save((value,)))


def test_the_class_of_tensors_is_never_called() -> None:
    called = pickle.dumps(0)[:0] + b"\x80\x02ctorch\nTensor\nK\x05\x85R."
    with pytest.raises(UnknownSampleError, match="no pickle of values"):
        expect_plain_samples(archive(called))
