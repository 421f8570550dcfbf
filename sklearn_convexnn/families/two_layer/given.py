"""Two-layer networks on patterns that are given."""

import warnings

import numpy as np

from sklearn_convexnn.families.simplify import simplify
from sklearn_convexnn.families.two_layer.recovery import neurons_from_blocks
from sklearn_convexnn.patterns.arrangements import (
    enumerate_arrangement,
    network_arrangement,
    sample_arrangement,
    union,
)
from sklearn_convexnn.programs.two_layer import TwoLayerProgram
from sklearn_convexnn.solvers import SOLVERS


class TwoLayerPatterns:
    """Patterns of neurons, their program, and its solution as a network.

    Parameters
    ----------
    problem : Problem

    Attributes
    ----------
    words : tuple of str
        What patterns and units are called.
    recovery : float
        Part of the time that the network takes which a solution stands for.
    """

    words, recovery = ("patterns", "neurons"), 0.0

    def __init__(self, problem):
        self.problem = problem

    def sampled(self, settings, known):
        """Random patterns, and those of neurons that are known."""
        return _sampled_arrangement(self.problem, settings, known)

    def all(self):
        """All patterns."""
        p = self.problem
        return enumerate_arrangement(p.X, free_bias=p.fit_intercept)

    def program(self, patterns):
        """The program over some patterns."""
        return TwoLayerProgram(self.problem, patterns)

    def work(self, program):
        """Operations until a solver can be interrupted, if it checks too late."""
        return 0.0

    def options(self, settings):
        """What the solver of the settings is told besides."""
        # Some go where the data are, in their precision.
        anywhere = SOLVERS[settings.solver].any_arrays
        return {"like": settings.like} if anywhere else {}

    def network(self, program, result):
        """The neurons of a solution."""
        return neurons_from_blocks(program, result.theta, result.offset)

    def simplified(self, neurons):
        """A small network that is as good."""
        return simplify(self.problem, neurons)

    def proven_bound(self, nu):
        """None: nothing is proven of other patterns."""
        return None


def _sampled_arrangement(problem, settings, known):
    """Random patterns, and those of known neurons; a warning if they are few."""
    X, free_bias = problem.X, problem.fit_intercept
    wanted = settings.n_arrangements
    arrangement = sample_arrangement(
        X, wanted, free_bias=free_bias, random_state=settings.seed
    )
    if arrangement.complete:
        return arrangement
    if len(arrangement) < wanted:
        warnings.warn(
            f"Only {len(arrangement)} distinct activation patterns were found, fewer "
            f"than n_arrangements={wanted}: the others are hard to hit at "
            "random. Centre and scale the data, or use arrangements='exact' if they "
            "are of low rank.",
            UserWarning,
        )
    if known is not None:
        # Linear ones have a block without a pattern.
        neurons = known.units.select(~known.units.linear)
        gates = neurons.directions
        if free_bias:
            gates = np.column_stack([gates, neurons.biases])
        earlier = network_arrangement(X, gates, free_bias=free_bias)
        arrangement = union(earlier, arrangement)
    return arrangement
