"""Solvers of restricted programs: one function per file, one result type."""

from collections.abc import Callable
from dataclasses import dataclass

from sklearn_convexnn.solvers._contest import null_result
from sklearn_convexnn.solvers.augmented_lagrangian import solve_augmented_lagrangian
from sklearn_convexnn.solvers.automatic import solve_automatic
from sklearn_convexnn.solvers.cvxpy_reference import solve_cvxpy
from sklearn_convexnn.solvers.direction_generation import solve_direction_generation
from sklearn_convexnn.solvers.interior_point import solve_interior_point
from sklearn_convexnn.solvers.penalised import check_smooth, solve_penalised


@dataclass(frozen=True)
class Solver:
    """A solver of restricted programs, with what it needs and can.

    Attributes
    ----------
    solve : callable
        Takes a program with `tol`, `max_iter`, `deadline` and `callback`.
    single_units : bool, default=False
        Whether it needs blocks of single units.
    any_arrays : bool, default=False
        Whether it runs on arrays of any library, those of the parameter `like`.
    contests : bool, default=False
        Whether blocks may leave their cones, and the parameter `contest` makes
        networks of them.
    check : callable or None, default=None
        Raises ValueError for a loss that it cannot take, given that and whether
        the blocks are of single units.
    """

    solve: Callable
    single_units: bool = False
    any_arrays: bool = False
    contests: bool = False
    check: Callable | None = None


SOLVERS = {
    "auto": Solver(solve_automatic),
    "interior_point": Solver(solve_interior_point),
    "direction_generation": Solver(solve_direction_generation, single_units=True),
    "augmented_lagrangian": Solver(
        solve_augmented_lagrangian, single_units=True, any_arrays=True
    ),
    "penalised": Solver(
        solve_penalised, any_arrays=True, contests=True, check=check_smooth
    ),
    "cvxpy": Solver(solve_cvxpy),
}

SOLVERS_OF_BLOCKS = tuple(
    name for name, solver in SOLVERS.items() if not solver.single_units
)
"""Those for blocks of sub-networks as well."""

__all__ = [
    "SOLVERS",
    "SOLVERS_OF_BLOCKS",
    "Solver",
    "null_result",
    "solve_augmented_lagrangian",
    "solve_automatic",
    "solve_cvxpy",
    "solve_direction_generation",
    "solve_interior_point",
    "solve_penalised",
]
