"""The targets of the fuzzing: every committed input is read without a finding, and mutations are of use."""

from random import Random

import pytest

from fuzz import open_model, read_engine_log, read_pictures, read_samples
from fuzz.__main__ import CORPUS, TARGETS
from fuzz.guard import try_input
from fuzz.values import change_bytes, repeat_piece
from prox24_export.engines.diagnosis import inspector

TRIED = (open_model, read_engine_log, read_pictures, read_samples)
MODULES = {module.__name__.rpartition(".")[2]: module for module in TRIED}
INPUTS = sorted(CORPUS.glob("*/*"))
MUTATIONS = 60


def test_there_is_a_target_for_every_folder_of_inputs() -> None:
    assert {file.parent.name for file in INPUTS} == MODULES.keys() == TARGETS.keys()
    assert all(TARGETS[name] == module.LONGEST for name, module in MODULES.items())


@pytest.mark.parametrize("name", MODULES)
def test_no_committed_input_is_a_finding(name: str) -> None:
    said = {file.name: try_input(MODULES[name].check, file.read_bytes()) for file in INPUTS if file.parent.name == name}
    assert len(said) > 15
    assert max(file.stat().st_size for file in INPUTS) < 8192


@pytest.mark.parametrize("name", MODULES)
def test_mutated_inputs_are_other_ones_and_no_finding(name: str) -> None:
    module, random = MODULES[name], Random(24)
    inputs = [file.read_bytes() for file in INPUTS if file.parent.name == name]
    read = changed = 0
    for _ in range(MUTATIONS):
        before = random.choice(inputs)
        after = module.mutate(before, random, lambda data: change_bytes(data, random))
        changed += after != before
        read += not try_input(module.check, after)
    assert changed > MUTATIONS // 2
    assert read > 0 or name == "read_samples"  # whose text is hardly ever UTF-8


def test_a_fault_of_the_product_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: str) -> None:
        raise TypeError("'int' object is not iterable")

    monkeypatch.setattr(inspector, "parse", fail)
    with pytest.raises(TypeError):
        try_input(read_engine_log.check, b"a log")


def test_a_piece_is_repeated_up_to_the_longest_input() -> None:
    lengths = [len(repeat_piece(b"a few bytes", Random(seed), 5000)) for seed in range(50)]
    assert max(lengths) > 4900
    assert all(length <= 5000 for length in lengths)
    assert repeat_piece(b"", Random(1), 9) == b""
