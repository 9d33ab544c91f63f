"""Keeps the libraries of Hugging Face from the network: a configuration can name what they would fetch."""

import os

SWITCHES = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")


def stay_offline() -> None:
    """Lets huggingface_hub fetch nothing for the rest of the process, unless the user has set either switch.

    It reads the switches once, when it is imported. Where it was imported before, nothing changes.
    """
    if not any(switch in os.environ for switch in SWITCHES):
        os.environ.update(dict.fromkeys(SWITCHES, "1"))
