"""A model that is opened: its graph, and the digest of everything that it was read from."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from prox24_export.facts.files import FileState, expect_unchanged, look_at
from prox24_export.models.frontend import Frontend
from prox24_export.passes.graph.protocol import TracedGraph
from prox24_export.results.report import FileFacts


@dataclass(frozen=True)
class OpenedModel:
    """A model and what it was read from.

    Attributes:
        frontend: Reads and writes it.
        graph: The model.
        facts: Name, size and digest of what was read.
        states: The files that were read, and their state then.
    """

    frontend: Frontend
    graph: TracedGraph
    facts: FileFacts
    states: Mapping[Path, FileState]

    def expect_unchanged(self) -> None:
        """Expects the files of the model to hold what they held when they were read.

        Raises:
            InputError: One of them does not.
        """
        expect_unchanged(self.states, lambda: self.frontend.facts(self.graph) == self.facts)


def open_model(frontend: Frontend) -> OpenedModel:
    """Opens a model, and takes the digest of what it was read from; nothing of it may change meanwhile.

    Raises:
        InputError: The model is missing, unreadable or unsuitable, or was changed meanwhile.
    """
    states = look_at([file for file in frontend.files(None).values() if file.is_file()])
    graph = frontend.open()
    states |= look_at([file for file in frontend.files(graph).values() if file not in states])
    facts = frontend.facts(graph)
    expect_unchanged(states, lambda: False)  # nobody knows what was read before the change
    return OpenedModel(frontend, graph, facts, states)
