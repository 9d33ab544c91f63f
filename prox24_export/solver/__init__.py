"""The numerical solver: it takes torch tensors and returns torch tensors, and knows no graph and no files."""

from prox24_export.solver.layer import SolverSettings, solve_layer, solve_layers
from prox24_export.solver.prox import prox24
from prox24_export.solver.solution import LayerSolution, LayerTask, Status

__all__ = ["LayerSolution", "LayerTask", "SolverSettings", "Status", "prox24", "solve_layer", "solve_layers"]
