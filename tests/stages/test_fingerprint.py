"""What a journal is of: every option either counts or does not, and each difference is told."""

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from prox24_export import Settings
from prox24_export.data.sample_list import Sample
from prox24_export.stages.fingerprint import (
    COUNTED,
    NOT_COUNTED,
    digest_samples,
    list_differences,
    take_fingerprint,
)
from prox24_export.stages.prepare import Job, name_model, prepare
from prox24_export.stages.run import Run
from tests.command import network, samples

HERE = "tests.stages.test_fingerprint"


def measure(pruned: Any, dense: Any) -> Any:
    """A loss of the user's."""
    return (pruned[0] - dense[0]).square().mean()


@pytest.fixture
def job(tmp_path: Path) -> Job:
    named = name_model(network(tmp_path), samples(tmp_path), tmp_path / "out")
    return prepare(named, None, Settings(), Run())


def test_every_option_counts_or_does_not() -> None:
    assert {option.name for option in fields(Settings)} == COUNTED | NOT_COUNTED
    assert not COUNTED & NOT_COUNTED


def test_a_run_has_the_fingerprint_of_the_same_run(job: Job) -> None:
    assert list_differences(take_fingerprint(job, Run()), take_fingerprint(job, Run())) == []
    for other in (Settings(force=True), Settings(no_resume=True), Settings(memory=8.0, min_snr=3.0)):
        assert (
            list_differences(take_fingerprint(job, Run()), take_fingerprint(replace(job, settings=other), Run())) == []
        )


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (Settings(effort="fast"), ["--effort was default and is fast"]),
        (Settings(blend=0.5), ["--blend was not given and is 0.5"]),
        (Settings(exclude=("a", "b"), seed=1), ["--exclude was not given and is a, b", "--seed was 0 and is 1"]),
        (Settings(refine_loss=f"{HERE}:measure"), ["--refine-loss was not given and is " + f"{HERE}:measure"]),
    ],
)
def test_other_options_are_named(settings: Settings, told: list[str], job: Job) -> None:
    found = list_differences(take_fingerprint(job, Run()), take_fingerprint(replace(job, settings=settings), Run()))
    assert [line for line in found if not line.startswith("the ")] == told


def test_other_bytes_and_versions_are_named(job: Job) -> None:
    earlier, other = take_fingerprint(job, Run()), Run()
    other.versions = {**other.versions, "torch": "0.1"}
    parts = replace(job.parts, fit=job.parts.fit[1:], report=job.parts.report[1:])
    opened = replace(job.opened, facts=replace(job.opened.facts, sha256="0"))
    found = list_differences(earlier, take_fingerprint(replace(job, parts=parts, opened=opened), other))
    assert found[:3] == ["the model changed", "the calibration samples changed", "the evaluation samples changed"]
    assert found[3:] == [f"torch was {earlier['versions']['torch']} and is 0.1"]
    assert "the journal's format was not given and is 1" in list_differences({}, earlier)


def test_the_code_of_a_loss_counts(job: Job) -> None:
    with_loss = replace(job, settings=Settings(refine_loss=f"{HERE}:measure"))
    earlier = take_fingerprint(with_loss, Run())
    assert earlier["loss"]
    assert list_differences({**earlier, "loss": "0"}, earlier) == ["the code of --refine-loss changed"]


def test_samples_count_with_their_names_types_shapes_labels_and_places() -> None:
    array = np.arange(4, dtype=np.int32)
    variants = [
        [Sample({"x": array})],
        [Sample({"y": array})],
        [Sample({"x": array.astype(np.uint32)})],
        [Sample({"x": array[None]})],
        [Sample({"x": array}, array)],
        [Sample({"x": array}), Sample({"x": array})],
        [Sample({"x": array[::-1]})],
        [],
    ]
    assert len({digest_samples(samples) for samples in variants}) == len(variants)
    assert digest_samples(variants[0]) == digest_samples([Sample({"x": array.copy()})])
