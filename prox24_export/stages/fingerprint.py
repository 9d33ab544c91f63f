"""What a journal is of: the bytes that were read, the options that change the result, and the versions.

Two runs with the same fingerprint come to the same model on the same machine, so that one can go on with what the other
has done.
"""

import hashlib
import inspect
import itertools
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from prox24_export import user_code
from prox24_export.data.sample_list import Sample
from prox24_export.stages.device import name_kind
from prox24_export.stages.prepare import Job
from prox24_export.stages.refine import WANTED
from prox24_export.stages.run import Run

FORMAT = 1  # of the records; it grows when a reader of them would have to change
COUNTED = frozenset({
    *("include", "exclude", "seed", "samples", "sequence", "device", "method", "effort", "damping", "blend"),
    *("permute", "permute_minutes", "refine", "refine_mode", "refine_target", "refine_minutes", "refine_loss"),
})  # fmt: skip
"""The options that change what is recorded. Shapes of random inputs count by the samples that are drawn in them, and a
device by what it is: another one rounds sums differently."""
NOT_COUNTED = frozenset({
    *("tokenizer", "preprocess", "resize", "crop", "mean", "std", "layout", "classes"),  # samples count as they are fed
    *("shapes", "stride", "metric", "memory", "budget", "max_accuracy_drop", "max_metric_change", "min_snr"),
    *("min_sparse_layers", "min_speedup", "strict", "baseline", "engine", "precision", "workspace_mb", "timing_cache"),
    *("onnx", "force", "no_resume", "ray"),
})  # fmt: skip
"""The options that do not: what is measured, checked and written once the layers are solved and refined."""
FILES = {
    "model": "the model",
    "calibration": "the calibration samples",
    "evaluation": "the evaluation samples",
    "loss": "the code of --refine-loss",
}


def take_fingerprint(job: Job, run: Run) -> dict[str, Any]:
    """Takes the fingerprint of a run before its work, as plain values for JSON."""
    parts, told = job.parts, {"device": name_kind(job.device)}
    return {
        "model": _digest_model(job),
        "calibration": digest_samples(itertools.chain(parts.fit, parts.choice)),
        "evaluation": digest_samples(parts.report),
        "loss": _digest_loss(job.settings.refine_loss),
        "settings": {name: (job.settings.as_dict() | told)[name] for name in sorted(COUNTED)},
        "versions": run.versions | {"the journal's format": str(FORMAT)},
    }


def list_differences(earlier: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Lists in words what differs between the fingerprints of an earlier run and of this one, as read from JSON."""
    found = [f"{words} changed" for name, words in FILES.items() if earlier.get(name) != now[name]]
    for group, prefix in (("settings", "--"), ("versions", "")):
        before, after = earlier.get(group) or {}, now[group]
        for name in sorted({*before, *after}):
            if before.get(name) != after.get(name):
                shown = prefix + (name.replace("_", "-") if prefix else name)
                found.append(f"{shown} was {_show(before.get(name))} and is {_show(after.get(name))}")
    return found


def digest_samples(samples: Iterable[Sample]) -> str:
    """Computes the SHA-256 digest of the arrays and labels of samples: names, types, shapes and bytes."""
    digest = hashlib.sha256()
    for sample in samples:
        for name, array in (*sorted(sample.feeds.items()), ("", sample.labels)):
            if array is None:
                digest.update(b"-")
                continue
            digest.update(f"{name}|{array.dtype}|{array.shape}|".encode(errors="surrogateescape"))
            digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def _digest_model(job: Job) -> str:
    """Digests what was read, and what is computed: the code of a module of the user's is no file of the model."""
    digest = hashlib.sha256(job.opened.facts.sha256.encode())
    for node in job.graph.nodes:
        digest.update(repr(node).encode(errors="surrogateescape"))
    return digest.hexdigest()


def _digest_loss(spec: str | None) -> str:
    """Digests the file that holds the user's loss; empty where there is none."""
    if spec is None:
        return ""
    source = user_code.call_function(spec, "--refine-loss", WANTED, lambda function: list(_find_source(function)))
    return hashlib.sha256(b"".join(file.read_bytes() for file in source)).hexdigest()


def _find_source(function: Any) -> Iterator[Path]:
    try:
        name = inspect.getsourcefile(function)
    except TypeError:  # it is compiled, or an object
        return
    if name is not None and Path(name).is_file():
        yield Path(name)


def _show(value: Any) -> str:
    if value is None:
        return "not given"
    return ", ".join(map(str, value)) or "not given" if isinstance(value, list | tuple) else str(value)
