"""Sub-networks that are rebuilt from blocks, and compete for output weights."""

from dataclasses import replace

import numpy as np

from sklearn_convexnn._utils.breakdown import unless_broken
from sklearn_convexnn.families.subnetworks.recovery import subnetworks_of_blocks
from sklearn_convexnn.solvers._contest import Contest
from sklearn_convexnn.solvers.group_lasso import solve_output_weights

# Sub-networks of a network that compete for output weights, and the least size,
# relative to the largest, of one that does.
_MOST, _GONE = 100, 1e-6


class SubnetworkContest(Contest):
    """The best network of sub-networks that blocks have stood for.

    The vectors of the blocks become weights of real sub-networks, wherever these lie,
    which compete for output weights with those of the best network so far.  So the
    objective may be below the value of the program, if that lacks their blocks.

    Parameters
    ----------
    problem : Problem
        Of one output, from which the program is restricted.
    program, tol, deadline, callback
        As of `Contest`.
    """

    steps = 100

    def __init__(self, problem, program, tol, deadline, callback):
        super().__init__(program, tol, deadline, callback)
        self.problem, self.units = problem, problem.null()

    @property
    def n_units(self):
        """Sub-networks of the best network."""
        return len(self.units)

    def begin(self):
        """The bound at the network without sub-networks."""
        self.bound_by(self.nu, self.rho)

    def enter(self, theta, rho):
        """Rebuild sub-networks of blocks, and bound the program by multipliers."""
        program, problem = self.program, self.problem
        self.theta, self.rho = theta, rho
        f = program.operator.forward(theta)
        self.offset = program.best_offset(f)
        rebuilt = subnetworks_of_blocks(problem.family, program, theta, self.offset)
        refitted = unless_broken(self.units, self._refitted, rebuilt)
        for found in (rebuilt, refitted):
            value = problem.objective(found)
            if value < self.objective:
                self.objective, self.units = value, found
        f = f + self.offset
        self.nu = -program.loss.gradient(f, program.y, program.sample_weight)
        self.bound_by(self.nu, rho)
        # Next to the optimum its network has the better outputs.
        self.bound_by(-problem.gradient(problem.outputs(self.units))[:, 0], rho)

    def _refitted(self, rebuilt):
        """The best network of the sub-networks of two."""
        p, pool = self.problem, _largest(self.units).joined(_largest(rebuilt))
        if len(pool) == 0:
            return self.units
        found = solve_output_weights(
            p.family.features(pool.units),
            p.Y,
            p.sample_weight,
            p.loss,
            p.alpha,
            free_offset=p.fit_intercept,
        )
        return _largest(replace(pool, outputs=found.values, offset=found.offset))


def _largest(units):
    sizes = units.sizes
    order = np.argsort(-sizes, kind="stable")[:_MOST]
    return units.select(order[sizes[order] > _GONE * sizes.max(initial=0.0)])
