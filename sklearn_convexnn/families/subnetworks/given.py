"""Sub-networks on blocks of patterns that are given."""

import warnings
from functools import partial

from sklearn.utils import check_random_state

from sklearn_convexnn._utils.deadlines import check, fits
from sklearn_convexnn.families.simplify import simplify
from sklearn_convexnn.families.subnetworks.contest import SubnetworkContest
from sklearn_convexnn.families.subnetworks.placing import random_subnetworks
from sklearn_convexnn.families.subnetworks.recovery import subnetworks_of_blocks
from sklearn_convexnn.families.subnetworks.slope_bounds import slope_bound
from sklearn_convexnn.patterns.block_enumeration import enumerate_blocks
from sklearn_convexnn.patterns.blocks import blocks_of, distinct
from sklearn_convexnn.programs.subnetworks import SubnetworkProgram
from sklearn_convexnn.solvers import SOLVERS

# Outputs of inner units whose patterns are found at once.
_CHUNK = 1_000_000
# Operations for each entry of the masks of a program until there is a first solution.
_FIRST = 1e3
# Draws of random sub-networks for each block that is asked for.
_DRAWS = 20


class SubnetworkBlocks:
    """Blocks of sub-networks, their program, and its solution as a network.

    Parameters
    ----------
    problem : Problem
        Of one output.

    Attributes
    ----------
    words, recovery
        As of `TwoLayerPatterns`.
    """

    words, recovery = ("blocks", "sub-networks"), 0.1

    def __init__(self, problem):
        self.problem = problem

    def sampled(self, settings, known):
        """Blocks of random sub-networks, and of those that are known."""
        rng, blocks = check_random_state(settings.seed), None
        n_blocks = settings.n_arrangements
        for _ in range(_DRAWS):
            if blocks is not None and not fits():
                break
            units = random_subnetworks(self.problem.family, n_blocks, rng)
            found = self._blocks_of_many(units)
            blocks = self._distinct(found if blocks is None else blocks.joined(found))
            if len(blocks) >= n_blocks:
                break
        if len(blocks) < n_blocks and fits():
            warnings.warn(
                f"Only {len(blocks)} distinct blocks of activation patterns were "
                f"found, fewer than n_arrangements={n_blocks}: the data may have no "
                "more. Use arrangements='exact' if they are few and of low rank.",
                UserWarning,
            )
        blocks = blocks.select(slice(0, n_blocks))
        if known is not None and len(known):
            blocks = self._distinct(self._blocks_of(known.units).joined(blocks))
        return blocks

    def all(self):
        """All blocks, of which there must not be too many."""
        p = self.problem
        blocks = enumerate_blocks(p.X, p.family.architecture, free_bias=p.fit_intercept)
        if blocks is None:
            raise ValueError(
                "arrangements='exact' needs all blocks of patterns of the "
                f"sub-networks, which are too many for {len(p.X)} distinct samples "
                f"and subnetwork_width={p.family.architecture.width} at "
                f"depth={p.family.architecture.depth}; use arrangements='adaptive' or "
                "'sampled'. sklearn_convexnn.patterns.counts.count_blocks bounds "
                "their number."
            )
        return blocks

    def _blocks_of(self, units):
        p = self.problem
        return blocks_of(p.X, units.weights, units.biases, free_bias=p.fit_intercept)

    def _blocks_of_many(self, units):
        """Blocks of sub-networks, some at a time."""
        p, blocks = self.problem, None
        step = max(1, _CHUNK // (len(p.X) * sum(p.family.architecture.widths)))
        for i in range(0, len(units), step):
            check()
            found = self._blocks_of(units.select(slice(i, i + step)))
            blocks = found if blocks is None else blocks.joined(found)
        return blocks

    def _distinct(self, blocks):
        p = self.problem
        merge = p.family.architecture.has_leaf_norms
        return distinct(blocks, merge=merge, free_bias=p.fit_intercept)

    def program(self, blocks):
        """The program over some blocks."""
        return SubnetworkProgram(self.problem, blocks)

    def work(self, program):
        """Operations until a solver can be interrupted, if it checks too late."""
        return _FIRST * program.operator.cone_masks.size

    def options(self, settings):
        """What the solver of the settings is told besides."""
        if not SOLVERS[settings.solver].contests:
            return {}
        return {"contest": partial(SubnetworkContest, self.problem)}

    def network(self, program, result):
        """The sub-networks of a solution."""
        if result.units is not None:
            return result.units
        return subnetworks_of_blocks(
            self.problem.family, program, result.theta, result.offset
        )

    def simplified(self, units):
        """A small network that is as good."""
        return simplify(self.problem, units)

    def proven_bound(self, nu):
        """What a dual point proves of the networks of all blocks."""
        N = self.problem.project(nu.reshape(-1, 1))
        return self.problem.bound(N, slope_bound(self.problem.family, N))
