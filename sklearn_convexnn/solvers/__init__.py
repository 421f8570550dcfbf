"""Solvers of restricted programs: one function per file, one result type."""

from sklearn_convexnn.solvers._result import (
    MESSAGES,
    SolverError,
    SolverResult,
    null_result,
)
from sklearn_convexnn.solvers.cvxpy_reference import solve_cvxpy
from sklearn_convexnn.solvers.interior_point import solve_interior_point

SOLVERS = {
    "auto": solve_interior_point,
    "interior_point": solve_interior_point,
    "cvxpy": solve_cvxpy,
}

__all__ = [
    "MESSAGES",
    "SOLVERS",
    "SolverError",
    "SolverResult",
    "null_result",
    "solve_cvxpy",
    "solve_interior_point",
]
