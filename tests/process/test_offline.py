"""Libraries of Hugging Face fetch nothing while this program reads models of strangers."""

import os

import pytest

from prox24_export.process.offline import SWITCHES, stay_offline


def test_the_network_is_off_unless_the_user_says_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", {})
    stay_offline()
    assert os.environ == dict.fromkeys(SWITCHES, "1")
    monkeypatch.setattr(os, "environ", {"HF_HUB_OFFLINE": "0"})
    stay_offline()
    assert os.environ == {"HF_HUB_OFFLINE": "0"}
