"""The numerical solver: it takes torch tensors and returns torch tensors, and knows no graph and no files."""

from prox24_export.solver.layer import LayerSolution, SolverSettings, Status, solve_layer
from prox24_export.solver.prox import prox24

__all__ = ["LayerSolution", "SolverSettings", "Status", "prox24", "solve_layer"]
