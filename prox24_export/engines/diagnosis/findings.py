"""What a builder log and an engine inspector say of one pruned layer, side by side, before any conclusion."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from prox24_export.engines.diagnosis.builder_log import LayerList, SparsityLog
from prox24_export.engines.diagnosis.inspector import EngineLayer
from prox24_export.engines.diagnosis.layer_names import mentions, nodes_of, region_ends
from prox24_export.engines.diagnosis.tactic_times import TacticTimes

NOTHING = SparsityLog(None, None)


@dataclass(frozen=True)
class Finding:
    """Evidence on one layer.

    Attributes:
        eligible: Whether the log lists it as eligible; None where the log does not tell.
        chosen: Whether the log lists it as chosen; None where it does not tell.
        listed_as: Its name in the log's lists; empty where it is in none.
        engine_layers: Layers of the engine that hold it, those that multiply first.
        times: Its fastest tactics; None where none was timed.
        region: Myelin region that swallowed it, where no layer of the engine shows its product; else empty.
    """

    eligible: bool | None
    chosen: bool | None
    listed_as: str
    engine_layers: tuple[EngineLayer, ...]
    times: TacticTimes | None
    region: str

    @property
    def products(self) -> tuple[EngineLayer, ...]:
        """Layers of the engine that multiply by its weight."""
        return tuple(layer for layer in self.engine_layers if layer.is_product)

    @property
    def plugin(self) -> EngineLayer | None:
        """The plugin that computes it."""
        return next((layer for layer in self.engine_layers if layer.is_plugin), None)

    @property
    def sparse_products(self) -> tuple[EngineLayer, ...]:
        """Those of its products whose tactic is sparse."""
        return tuple(layer for layer in self.products if layer.is_sparse)

    @property
    def inspected(self) -> bool | None:
        """Whether the inspector shows a sparse tactic in every product; None where it shows none, or both kinds."""
        if self.products:
            sparse = len(self.sparse_products)
            return None if 0 < sparse < len(self.products) else sparse > 0
        return False if self.plugin is not None else None


def find(node: str, pruned: Collection[str], log: SparsityLog, engine: Sequence[EngineLayer]) -> Finding:
    """Everything that log and inspector say of `node`; `pruned` are all pruned nodes."""
    eligible, listed_as = _listed(node, pruned, log.eligible, log)
    chosen, chosen_as = _listed(node, pruned, log.chosen, log)
    layers = sorted(_layers_of(node, log, engine), key=lambda layer: not layer.is_product)
    return Finding(
        eligible, chosen, chosen_as or listed_as, tuple(layers), _times(node, log), _region(node, log, layers)
    )


def belongs(name: str, metadata: Sequence[str], pruned: Collection[str], log: SparsityLog) -> bool:
    """Whether a name of the log or the engine stands for a pruned node, or for a region that may hold one."""
    return bool(region_ends(name)) or any(node in pruned for node in (*metadata, *nodes_of(name, log.registered)))


def _listed(node: str, pruned: Collection[str], layers: LayerList | None, log: SparsityLog) -> tuple[bool | None, str]:
    if layers is None:
        return None, ""
    if name := mentions(node, layers.names, log.registered):
        return True, name
    for name in layers.names:
        members = log.regions.get(name, ()) if region_ends(name) else ()
        if node in members:  # a region is listed when anything in it is
            return (True if sum(member in pruned for member in members) == 1 else None), name
        if node in region_ends(name):
            return None, name
    return (False if layers.is_complete else None), ""


def _layers_of(node: str, log: SparsityLog, engine: Sequence[EngineLayer]) -> list[EngineLayer]:
    """By metadata, which is exact, else by name, else the region that holds it."""
    by_metadata = [layer for layer in engine if node in layer.onnx_nodes]
    by_name = [layer for layer in engine if not layer.onnx_nodes and node in nodes_of(layer.name, log.registered)]
    in_region = [layer for layer in engine if layer.is_region and node in _members(layer.name, log)]
    return by_metadata or by_name or in_region


def _members(region: str, log: SparsityLog) -> tuple[str, ...]:
    return log.regions.get(region) or region_ends(region)


def _region(node: str, log: SparsityLog, layers: Sequence[EngineLayer]) -> str:
    if any(layer.is_product or layer.is_plugin for layer in layers):
        return ""
    held = next((layer.name for layer in layers if layer.is_region), "")
    return held or next((name for name, members in log.regions.items() if node in members), "")


def _times(node: str, log: SparsityLog) -> TacticTimes | None:
    found = [
        times
        for times in log.times
        if node in times.nodes or (not times.nodes and node in nodes_of(times.layer, log.registered))
    ]
    if not found:
        return None
    dense = min(((times.dense_ms, times.dense_tactic) for times in found if times.dense_ms is not None), default=None)
    sparse = min(
        ((times.sparse_ms, times.sparse_tactic) for times in found if times.sparse_ms is not None), default=None
    )
    return TacticTimes(found[0].layer, found[0].nodes, *(dense or (None, "")), *(sparse or (None, "")))
