"""Solvers of restricted programs: one function per file, one result type."""

from sklearn_convexnn.solvers._contest import null_result
from sklearn_convexnn.solvers.augmented_lagrangian import solve_augmented_lagrangian
from sklearn_convexnn.solvers.automatic import solve_automatic
from sklearn_convexnn.solvers.cvxpy_reference import solve_cvxpy
from sklearn_convexnn.solvers.direction_generation import solve_direction_generation
from sklearn_convexnn.solvers.interior_point import solve_interior_point
from sklearn_convexnn.solvers.penalised import solve_penalised

SOLVERS = {
    "auto": solve_automatic,
    "interior_point": solve_interior_point,
    "direction_generation": solve_direction_generation,
    "augmented_lagrangian": solve_augmented_lagrangian,
    "penalised": solve_penalised,
    "cvxpy": solve_cvxpy,
}

FIRST_ORDER = ("augmented_lagrangian", "penalised")
"""Those that run on arrays of any library, with the parameter `like`."""

SINGLE_UNITS = ("direction_generation", "augmented_lagrangian")
"""Those that need blocks of single units."""

SOLVERS_OF_BLOCKS = tuple(name for name in SOLVERS if name not in SINGLE_UNITS)
"""Those for blocks of sub-networks as well."""

__all__ = [
    "FIRST_ORDER",
    "SINGLE_UNITS",
    "SOLVERS",
    "SOLVERS_OF_BLOCKS",
    "null_result",
    "solve_augmented_lagrangian",
    "solve_automatic",
    "solve_cvxpy",
    "solve_direction_generation",
    "solve_interior_point",
    "solve_penalised",
]
