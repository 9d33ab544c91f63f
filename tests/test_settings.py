"""Every option is checked once, where it enters."""

import copy
import pickle
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from prox24_export import export, inspect, plan, sensitivity
from prox24_export.errors import InputError
from prox24_export.settings import Settings
from tests.command import network


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            {"effort": "heroic"},
            "--effort must be one of fast, default, thorough. Got heroic.",
        ),
        (
            {"method": "wanda", "effort": "fast"},
            "--effort must be left out with --method wanda, which knows only one. Got fast.",
        ),
        (
            {"method": "lottery"},
            "--method must be one of prox, prox-gradient, prox-model, sparsegpt, wanda, magnitude. Got lottery.",
        ),
        (
            {"method": "prox-model", "refine": "no"},
            "--refine must be left out with --method prox-model, whose masks move in the refinement. Got no.",
        ),
        ({"samples": 0}, "--samples must be at least 1. Got 0."),
        ({"seed": -1}, "--seed must be 0 or more. Got -1."),
        ({"damping": -0.1}, "--damping must be between 0 and 1. Got -0.1."),
        ({"damping": float("nan")}, "--damping must be between 0 and 1. Got nan."),
        ({"blend": 1.5}, "--blend must be between 0 and 1. Got 1.5."),
        ({"max_accuracy_drop": -1.0}, "--max-accuracy-drop must be 0 points or more. Got -1.0."),
        ({"max_accuracy_drop": float("inf")}, "--max-accuracy-drop must be 0 points or more. Got inf."),
        ({"min_snr": float("nan")}, "--min-snr must be a number of dB. Got nan."),
        ({"include": "fc*"}, "--include must be a tuple of globs. Got 'fc*'."),
        ({"exclude": "fc*"}, "--exclude must be a tuple of globs. Got 'fc*'."),
        ({"refine": "no", "refine_minutes": 1.0}, "--refine-minutes must be left out with --refine no. Got 1.0."),
        ({"refine": "no", "refine_loss": "a:b"}, "--refine-loss must be left out with --refine no. Got a:b."),
        ({"refine": "no", "refine_mode": "model"}, "--refine-mode must be left out with --refine no. Got model."),
        ({"refine": "no", "refine_target": "views"}, "--refine-target must be left out with --refine no. Got views."),
        (
            {"method": "prox-model", "refine_mode": "segments"},
            "--refine-mode must be left out with --method prox-model, whose masks move only while all layers are tuned",
        ),
        (
            {"refine_target": "views", "refine_mode": "segments"},
            "--refine-target must be left out with --refine-mode segments, which aims at the dense network's values",
        ),
        ({"engine": "none", "workspace_mb": 1}, "--workspace-mb must be left out with --engine none. Got 1."),
        ({"engine": "torch", "timing_cache": "c"}, "--timing-cache must be left out with --engine torch. Got c."),
        ({"budget": True}, "--budget must be given a limit to keep"),
        ({"min_speedup": -1.0}, "--min-speedup must be 0 or more. Got -1.0."),
        ({"min_sparse_layers": -1}, "--min-sparse-layers must be 0 or more. Got -1."),
        ({"mean": 0.5}, "--mean must be one number, or three. Got 0.5."),
        ({"std": (0.5, 0.5)}, "--std must be one number above 0, or three. Got (0.5, 0.5)."),
        ({"crop": "224x"}, "--crop must be a size such as 256 or 224x224. Got 224x."),
        ({"samples": "8"}, "--samples must be a whole number. Got '8'."),
        ({"samples": 1.5}, "--samples must be a whole number. Got 1.5."),
        ({"samples": True}, "--samples must be a whole number. Got True."),
        ({"seed": None}, "--seed must be a whole number. Got None."),
        ({"max_accuracy_drop": "1"}, "--max-accuracy-drop must be a number. Got '1'."),
        ({"min_snr": "a"}, "--min-snr must be a number. Got 'a'."),
        ({"force": "no"}, "--force must be True or False. Got 'no'."),
        ({"metric": 3}, "--metric must be a text. Got 3."),
        ({"include": [1]}, "--include must be a tuple of globs. Got [1]."),
        ({"include": None}, "--include must be a tuple of globs. Got None."),
        ({"shapes": 3}, "--shapes must be a dictionary of shapes, such as {'image': (1, 3, 224, 224)}. Got 3."),
        ({"shapes": {"x": "1x3"}}, "--shapes must be a dictionary of shapes"),
        ({"device": "gpu"}, "--device must be auto, cpu, cuda, cuda:N or cuda:all. Got gpu."),
        ({"device": "cuda:-1"}, "--device must be auto, cpu, cuda, cuda:N or cuda:all. Got cuda:-1."),
        ({"device": 0}, "--device must be a text. Got 0."),
        ({"effort": 3}, "--effort must be one of fast, default, thorough. Got 3."),
        ({"efort": "fast"}, "efort is no setting of Settings. Did you mean effort?"),
        ({"zzz": 1}, "zzz is no setting of Settings. The settings are: "),
        ({"shapes": {"x": (1, 0)}}, "--shapes must be sizes of at least 1. Got x: 1x0."),
    ],
)
def test_a_value_out_of_range_is_refused_by_the_name_of_its_option(options: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=re.escape(said)):
        Settings(**options)


@pytest.mark.parametrize(
    "options",
    [
        {"samples": 1, "seed": 2**40, "damping": 0.0, "blend": 1.0},
        {"damping": 1.0, "blend": 0.0, "max_accuracy_drop": 0.0, "min_snr": -5.0},
        {"shapes": {"x": ()}, "method": "prox-gradient"},
    ],
)
def test_values_at_the_limits_are_taken(options: dict[str, Any]) -> None:
    plain = Settings(**options).as_dict()
    wanted = options | ({"shapes": {"x": "scalar"}} if "shapes" in options else {})
    assert {name: plain[name] for name in wanted} == wanted


def test_the_report_gets_every_option_as_plain_values() -> None:
    plain = Settings(shapes={"x": (1, 3)}, include=("a*",)).as_dict()
    assert plain.keys() == {
        *("method", "effort", "include", "exclude", "samples", "seed", "shapes"),
        *("tokenizer", "preprocess", "resize", "crop", "mean", "std", "layout", "classes"),
        *(
            "damping",
            "blend",
            "sequence",
            "stride",
            "metric",
            "max_accuracy_drop",
            "min_snr",
            "refine",
            "refine_mode",
            "refine_minutes",
            "refine_target",
            "refine_loss",
            "engine",
            "precision",
            "min_speedup",
            "min_sparse_layers",
            "max_metric_change",
            "strict",
            "baseline",
            "no_resume",
            "ray",
            "workspace_mb",
            "timing_cache",
            "budget",
            "memory",
            "device",
            "permute",
            "permute_minutes",
            "onnx",
            "force",
        ),
    }
    assert plain["shapes"] == {"x": "1x3"}


def test_settings_by_position_are_refused() -> None:
    with pytest.raises(InputError, match=r"settings are given by name, such as Settings\(.*=\.\.\.\)\. Got 'fast'\."):
        Settings("fast")  # type: ignore[call-arg, arg-type]


@pytest.mark.parametrize("call", [export, plan, sensitivity, inspect])
def test_something_else_than_settings_is_refused_by_every_function(call: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"settings must be a Settings, such as .* Got \{'effort': 'fast'\}"):
        call(network(tmp_path), settings={"effort": "fast"})


def test_settings_are_replaced_copied_and_described_as_before() -> None:
    settings = replace(Settings(effort="fast"), samples=7)
    assert (settings.effort, settings.samples) == ("fast", 7)
    assert pickle.loads(pickle.dumps(settings)) == copy.copy(settings) == settings  # noqa: S301 - our own bytes
    with pytest.raises(InputError, match="--samples must be at least 1"):
        replace(settings, samples=0)
