"""What a builder log and an engine inspector each say of one pruned layer, before any conclusion is drawn."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from prox24_export.engines.diagnosis.builder_log import LayerList, SparsityLog
from prox24_export.engines.diagnosis.inspector import EngineLayer
from prox24_export.engines.diagnosis.layer_names import find_mention, find_nodes, find_region_ends
from prox24_export.engines.diagnosis.tactic_times import TacticTimes

NOTHING = SparsityLog(None, None)


@dataclass(frozen=True)
class Finding:
    """The evidence on one pruned layer.

    Attributes:
        eligible: Whether the log lists the layer as eligible; None where the log does not tell.
        chosen: Whether the log lists the layer as chosen; None where the log does not tell.
        listed_as: The layer's name in the log's lists; empty where it is in none.
        engine_layers: The layers of the engine that hold it, with those that multiply first.
        times: The layer's fastest tactics; None where none was timed.
        region: The Myelin region that swallowed the layer, where no layer of the engine shows its product; else empty.
    """

    eligible: bool | None
    chosen: bool | None
    listed_as: str
    engine_layers: tuple[EngineLayer, ...]
    times: TacticTimes | None
    region: str

    @property
    def products(self) -> tuple[EngineLayer, ...]:
        """The layers of the engine that multiply by the layer's weight."""
        return tuple(layer for layer in self.engine_layers if layer.is_product)

    @property
    def plugin(self) -> EngineLayer | None:
        """The plugin that computes the layer; None where none does."""
        return next((layer for layer in self.engine_layers if layer.is_plugin), None)

    @property
    def sparse_products(self) -> tuple[EngineLayer, ...]:
        """The products whose tactic is sparse."""
        return tuple(layer for layer in self.products if layer.is_sparse)

    @property
    def inspected(self) -> bool | None:
        """Whether the inspector shows a sparse tactic in every product; None where it shows none, or both kinds."""
        if self.products:
            sparse = len(self.sparse_products)
            return None if 0 < sparse < len(self.products) else sparse > 0
        return False if self.plugin is not None else None


def find_evidence(node: str, pruned: Collection[str], log: SparsityLog, engine: Sequence[EngineLayer]) -> Finding:
    """Collects everything that log and inspector say of one node.

    Args:
        node: The ONNX node.
        pruned: All pruned nodes.
        log: The builder's log.
        engine: The layers of the engine.
    """
    eligible, listed_as = _find_in_list(node, pruned, log.eligible, log)
    chosen, chosen_as = _find_in_list(node, pruned, log.chosen, log)
    layers = sorted(_find_engine_layers(node, log, engine), key=lambda layer: not layer.is_product)
    return Finding(
        eligible, chosen, chosen_as or listed_as, tuple(layers), _find_times(node, log), _find_region(node, log, layers)
    )


def may_hold_pruned(name: str, metadata: Sequence[str], pruned: Collection[str], log: SparsityLog) -> bool:
    """Whether a name of the log or the engine stands for a pruned node, or for a region that may hold one.

    Args:
        name: The name.
        metadata: The ONNX nodes that the layer's metadata names.
        pruned: All pruned nodes.
        log: The builder's log.
    """
    return bool(find_region_ends(name)) or any(
        node in pruned for node in (*metadata, *find_nodes(name, log.registered))
    )


def _find_in_list(
    node: str, pruned: Collection[str], layers: LayerList | None, log: SparsityLog
) -> tuple[bool | None, str]:
    if layers is None:
        return None, ""
    if name := find_mention(node, layers.names, log.registered):
        return True, name
    for name in layers.names:
        members = log.regions.get(name, ()) if find_region_ends(name) else ()
        if node in members:  # a region is listed when anything in it is
            return (True if sum(member in pruned for member in members) == 1 else None), name
        if node in find_region_ends(name):
            return None, name
    return (False if layers.is_complete else None), ""


def _find_engine_layers(node: str, log: SparsityLog, engine: Sequence[EngineLayer]) -> list[EngineLayer]:
    """Finds the engine's layers of a node: by metadata, which is exact, else by name, else the region that holds it."""
    by_metadata = [layer for layer in engine if node in layer.onnx_nodes]
    by_name = [layer for layer in engine if not layer.onnx_nodes and node in find_nodes(layer.name, log.registered)]
    in_region = [layer for layer in engine if layer.is_region and node in _find_members(layer.name, log)]
    return by_metadata or by_name or in_region


def _find_members(region: str, log: SparsityLog) -> tuple[str, ...]:
    return log.regions.get(region) or find_region_ends(region)


def _find_region(node: str, log: SparsityLog, layers: Sequence[EngineLayer]) -> str:
    if any(layer.is_product or layer.is_plugin for layer in layers):
        return ""
    held = next((layer.name for layer in layers if layer.is_region), "")
    return held or next((name for name, members in log.regions.items() if node in members), "")


def _find_times(node: str, log: SparsityLog) -> TacticTimes | None:
    found = [
        times
        for times in log.times
        if node in times.nodes or (not times.nodes and node in find_nodes(times.layer, log.registered))
    ]
    if not found:
        return None
    dense = min(((times.dense_ms, times.dense_tactic) for times in found if times.dense_ms is not None), default=None)
    sparse = min(
        ((times.sparse_ms, times.sparse_tactic) for times in found if times.sparse_ms is not None), default=None
    )
    return TacticTimes(found[0].layer, found[0].nodes, *(dense or (None, "")), *(sparse or (None, "")))
