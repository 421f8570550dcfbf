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
from sklearn_convexnn.solvers import FIRST_ORDER


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

    def sampled(self, n_arrangements, seed, known):
        """Random patterns, and those of neurons that are known."""
        p = self.problem
        return sampled_arrangement(p.X, n_arrangements, p.fit_intercept, seed, known)

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
        # Those of first order go where the data are, in their precision.
        return {"like": settings.like} if settings.solver in FIRST_ORDER else {}

    def network(self, program, result):
        """The neurons of a solution."""
        return neurons_from_blocks(program, result.theta, result.offset)

    def simplified(self, neurons):
        """A small network that is as good."""
        return simplify(self.problem, neurons)

    def proven_bound(self, nu):
        """None: nothing is proven of other patterns."""
        return None


def sampled_arrangement(X, n_arrangements, free_bias, seed, known):
    """Random patterns, and those of an earlier fit; a warning if they are few.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
    n_arrangements : int
    free_bias : bool
    seed : int
    known : Network or None
        Neurons of an earlier fit.

    Returns
    -------
    arrangement : Arrangement
    """
    arrangement = sample_arrangement(
        X, n_arrangements, free_bias=free_bias, random_state=seed
    )
    if arrangement.complete:
        return arrangement
    if len(arrangement) < n_arrangements:
        warnings.warn(
            f"Only {len(arrangement)} distinct activation patterns were found, fewer "
            f"than n_arrangements={n_arrangements}: the others are hard to hit at "
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
