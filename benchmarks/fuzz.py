"""Random tiny problems, whose optimum is known: are the bounds and the words honest?

Each problem is small enough to enumerate its activation patterns.  The convex program
over all of them, solved by CVXPY, tells the optimum; for outputs that share a hidden
layer, of which there is no such program, a long run stands in for it.  Then the problem
is trained by a random method, and must keep these promises:

* no bound is above the optimum, and no objective below it (`certificate_` permitting);
* the objective is that of the weights;
* no fit fails, and none warns but to say that it stopped short.

``python benchmarks/fuzz.py --quick`` takes a minute.  Every finding is printed with the
number of its problem; ``--only NUMBER`` repeats that one.
"""

import argparse
import traceback
import warnings
from contextlib import suppress
from dataclasses import dataclass, field
from time import perf_counter

import numpy as np
from scipy.special import log_softmax
from threadpoolctl import threadpool_limits

from sklearn_convexnn import (
    ConvexReLUClassifier,
    ConvexReLURegressor,
    GatedReLUClassifier,
    GatedReLURegressor,
    cutting_planes,
)
from sklearn_convexnn.families.two_layer.family import TwoLayer
from sklearn_convexnn.losses import (
    CLASSIFICATION_LOSSES,
    REGRESSION_LOSSES,
    Separable,
    Softmax,
    make_loss,
)
from sklearn_convexnn.model.problem import Problem
from sklearn_convexnn.model.results import SolverError
from sklearn_convexnn.patterns.arrangements import (
    enumerate_arrangement,
    without_rounding,
)
from sklearn_convexnn.programs.two_layer import TwoLayerProgram
from sklearn_convexnn.solvers import solve_cvxpy, solve_interior_point

RTOL = 1e-6  # by which bounds and objectives may be on the wrong side of the optimum
SMALL = 1e-9  # the same, as a part of the objective without units
LOOSE = 1e-3  # gap of the reference from which on it says little
METHODS = ("adaptive", "exact", "sampled", "gated", "cuts")
SOLVERS = (
    "auto",
    "interior_point",
    "direction_generation",
    "augmented_lagrangian",
    "penalised",
)
PRICINGS = ("exact", "search", "nonnegative", "triangle")


@dataclass
class Case:
    """A problem and the parameters of its estimator."""

    X: np.ndarray
    y: np.ndarray
    sample_weight: np.ndarray
    classes: int
    params: dict
    tags: list = field(default_factory=list)
    gated: bool = False
    cuts: dict | None = None  # how, if by cutting planes

    def fit(self, **changes):
        kind = ConvexReLUClassifier if self.classes else ConvexReLURegressor
        if self.gated:
            kind = GatedReLUClassifier if self.classes else GatedReLURegressor
        model = kind(**{**self.params, **changes})
        data = self.X, self.y
        if self.cuts is None:
            return model.fit(*data, sample_weight=self.sample_weight)
        return cutting_planes(
            model, *data, sample_weight=self.sample_weight, **self.cuts
        )

    @property
    def targets(self):
        """Numbers as the losses take them, shape (n_samples, n_outputs)."""
        if self.classes == 2:
            return np.where(self.y == 1, 1.0, -1.0)[:, None]
        if self.classes:
            return np.eye(self.classes)[self.y]
        return self.y.reshape(len(self.y), -1)

    @property
    def softmax(self):
        return self.classes > 2


def draw(seed):
    """A random problem."""
    rng = np.random.default_rng(seed)
    method = rng.choice(METHODS)
    n, d = int(rng.integers(1, 9)), int(rng.integers(1, 4))
    tags = []

    def maybe(name, share):
        chosen = rng.random() < share
        if chosen:
            tags.append(name)
        return chosen

    X = rng.standard_normal((n, d))
    if maybe("integers", 0.2):
        X = np.round(X)
    if maybe("repeated row", 0.15):
        X[rng.integers(n)] = X[0]
    if maybe("opposite row", 0.15):
        X[rng.integers(n)] = -X[0]
    if maybe("repeated column", 0.1):
        X[:, rng.integers(d)] = X[:, 0]
    if maybe("opposite column", 0.1):
        X[:, rng.integers(d)] = -X[:, 0]
    if maybe("constant column", 0.1):
        X[:, rng.integers(d)] = rng.integers(3)
    if maybe("size of a column", 0.15):
        X[:, rng.integers(d)] *= 10.0 ** rng.uniform(-6, 6)
    if maybe("size of a row", 0.15):
        X[rng.integers(n)] *= 10.0 ** rng.uniform(-6, 6)
    classes, outputs = 0, 1
    if rng.random() < 0.5:
        losses = list(REGRESSION_LOSSES)
        if rng.random() < 0.3:
            outputs = int(rng.integers(2, 4))
    else:
        losses = list(CLASSIFICATION_LOSSES)
        classes = 3 if rng.random() < 0.3 else 2
    if method == "gated":
        losses = [loss for loss in losses if make_loss(loss).smooth]
    if classes > 2:
        losses = ["log_loss"]
    loss = rng.choice(losses)
    if classes:
        n = max(n, classes)
        X = np.concatenate([X, rng.standard_normal((n, d))])[:n]
        y = rng.integers(classes, size=n)
        y[:classes] = np.arange(classes)
    else:
        y = rng.standard_normal((n, outputs))
        if loss == "poisson":
            y = rng.poisson(np.exp(y)).astype(float)
            y[0] += 1.0
        if maybe("constant targets", 0.05):
            y[:] = y[0]
        y = y[:, 0] if outputs == 1 else y
    weight = np.ones(n)
    if maybe("weights", 0.3):
        weight = rng.choice([0.0, 0.5, 1.0, 3.0], size=n)
        weight[: max(classes, 1)] = 1.0
    params = {
        "alpha": 10.0 ** rng.uniform(-2, 1),
        "loss": str(loss),
        "fit_intercept": bool(rng.random() < 0.5),
        "random_state": 0,
        "max_time": 20.0,
    }
    several, cuts = outputs > 1 or classes > 2, None
    if method != "gated":
        params["negative_slope"] = float(rng.choice([0.0, 0.0, 0.1, -0.5, -1.0]))
    if method == "cuts" and not several:
        cuts = {
            "cuts": str(rng.choice(["neurons", "cells"])),
            "pricing": str(rng.choice(PRICINGS)),
        }
        if cuts["pricing"] == "nonnegative":
            params["negative_slope"] = 0.0
    elif method == "cuts":
        method = "adaptive"
    elif method == "exact":
        params["arrangements"] = "exact"
    elif method == "sampled":
        params["arrangements"] = "sampled"
        params["n_arrangements"] = int(rng.integers(2, 30))
        choices = SOLVERS if make_loss(loss).smooth else SOLVERS[:-1]
        params["solver"] = str(rng.choice(choices))
    elif method == "gated":
        params["arrangements"] = str(rng.choice(["sampled", "exact"]))
    tags = [str(method), *tags]
    case = Case(X, y, weight, classes, params, tags, method == "gated", cuts)
    case.several = several
    return case


def loss_value(case, F):
    """Loss of outputs, from its definition."""
    Y, s, name = case.targets, case.sample_weight, case.params["loss"]
    if case.softmax:
        return -float(s @ np.sum(Y * log_softmax(F, axis=1), axis=1))
    loss = make_loss(name)
    used = s > 0
    return sum(
        loss.value(f[used], y[used], s[used]) for f, y in zip(F.T, Y.T, strict=True)
    )


def objective_of(case, model):
    """Objective of the weights of a fitted model."""
    (W, V), (b, c) = model.coefs_, model.intercepts_
    z = case.X @ W
    if case.gated:
        d = case.X.shape[1]
        gates = case.X @ model.gates_[:d] + model.gates_[d:].sum(axis=0)
        units = z * (gates > 0)
    else:
        z = z + b
        units = np.where(z > 0, z, case.params["negative_slope"] * z)
    decay = 0.5 * case.params["alpha"] * (np.sum(W**2) + np.sum(V**2))
    return loss_value(case, units @ V + c) + decay


def null_objective(case):
    """Objective without units, nearly."""
    Y, s = case.targets, case.sample_weight
    if case.softmax:
        share = np.maximum(s @ Y / s.sum(), 1e-12)
        return loss_value(case, np.tile(np.log(share), (len(Y), 1)))
    return loss_value(case, np.zeros(Y.shape))


def reference(case):
    """Lower and upper bound of the optimum over all activation patterns."""
    if case.gated:
        return gated_reference(case)
    if case.several:
        runs = [case.fit(**long_run(case, seed)) for seed in range(2)]
        proven = [run.dual_bound_ for run in runs if run.certificate_ == "global"]
        return max(proven, default=0.0), min(run.objective_ for run in runs)
    used, loss = case.sample_weight > 0, make_loss(case.params["loss"])
    X, s = case.X[used], case.sample_weight[used]
    free = case.params["fit_intercept"]
    if free:
        X = without_rounding(X - X.mean(axis=0))
    arrangement = enumerate_arrangement(X, free_bias=free)
    family = TwoLayer(X, free, case.params["negative_slope"])
    problem = Problem(
        family, case.targets[used], s, Separable(loss), case.params["alpha"]
    )
    program = TwoLayerProgram(problem, arrangement)
    if not program.can_improve:
        return program.null_objective(), program.null_objective()
    results = [solve_interior_point(program, tol=1e-8)]
    with suppress(SolverError):
        results.append(solve_cvxpy(program, tol=1e-8))
    low = max(result.dual_bound for result in results) if arrangement.complete else 0.0
    # Blocks that have left their cones are no network.
    high = min(
        result.objective
        for result in results
        if np.all(program.operator.cone(result.theta) >= -1e-9)
    )
    return low, high


def long_run(case, seed):
    """Parameters with which a fit comes closest to the optimum."""
    return {
        "arrangements": "adaptive",
        "solver": "auto",
        "tol": 1e-5,
        "random_state": seed,
        "max_time": 10.0,
    }


def gated_reference(case):
    """The convex program of gated networks, written down in CVXPY."""
    import cvxpy as cp

    used, alpha = case.sample_weight > 0, case.params["alpha"]
    X, s, Y = case.X[used], case.sample_weight[used], case.targets[used]
    free = case.params["fit_intercept"]
    centred = X - X.mean(axis=0) if free else X
    patterns = enumerate_arrangement(without_rounding(centred), free_bias=free).patterns
    loss = Softmax() if case.softmax else Separable(make_loss(case.params["loss"]))
    blocks = [cp.Variable((X.shape[1], Y.shape[1])) for _ in patterns]
    F = cp.Variable(Y.shape)
    link = sum((p[:, None] * X) @ V for p, V in zip(patterns, blocks, strict=True))
    link = link if len(blocks) else np.zeros(F.shape)
    if free:
        offset = cp.Variable((1, Y.shape[1]))
        link = link + np.ones((len(X), 1)) @ offset
    value = loss.expression(cp, F, Y, s)
    norm = cp.normNuc if Y.shape[1] > 1 else cp.pnorm
    penalty = alpha * sum(norm(V) for V in blocks) if len(blocks) else 0.0
    program = cp.Problem(cp.Minimize(value + penalty), [link == F])
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program.solve(
                solver="CLARABEL",
                tol_feas=1e-10,
                tol_gap_abs=1e-10,
                tol_gap_rel=1e-10,
            )
    except cp.error.SolverError:
        return 0.0, np.inf
    if program.status != "optimal":
        return 0.0, np.inf
    total = float(program.value)
    # Conic solvers do not say how close they are.
    slack = 1e-5 * abs(total) + 1e-7 * (null_objective(case) + np.sum(s))
    return total - slack, total + slack


def findings(case):
    """What is wrong with the fit of a case, and the gap of the reference."""
    wrong = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            model = case.fit()
        except Exception:
            # Any error at all is a finding.
            return [traceback.format_exc(limit=-4)], np.nan
    for issue in caught:
        if issue.category.__name__ not in ("ConvergenceWarning", "UserWarning"):
            wrong.append(f"{issue.category.__name__}: {issue.message}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        low, high = reference(case)
    slack = SMALL * null_objective(case)
    value, bound = model.objective_, model.dual_bound_
    true = objective_of(case, model)
    if not abs(value - true) <= 1e-7 * abs(true) + slack:
        wrong.append(f"objective {value:.10g}, of the weights {true:.10g}")
    if not value >= bound - 1e-9 * abs(value) - slack:
        wrong.append(f"objective {value:.10g} below the bound {bound:.10g}")
    whole = model.certificate_ != "restricted"
    if whole and not bound <= high + RTOL * abs(high) + slack:
        wrong.append(
            f"{model.certificate_} bound {bound:.10g} above {high:.10g} of a network"
        )
    if not value >= low - RTOL * abs(low) - slack:
        wrong.append(f"objective {value:.10g} below the optimum {low:.10g}")
    short = model.dual_gap_ > 1.01 * model.tol * value + 1e-11 * null_objective(case)
    warned = any(issue.category.__name__ == "ConvergenceWarning" for issue in caught)
    if short and not warned:
        wrong.append(f"gap {model.dual_gap_:.3g} of {value:.3g} without a warning")
    return wrong, (high - low) / max(high, 1e-300)


def run(numbers, verbose=True):
    """Findings of the problems of these numbers, as a dict."""
    found, loose, start = {}, 0, perf_counter()
    for number in numbers:
        case = draw(number)
        wrong, gap = findings(case)
        loose += not gap <= LOOSE
        if wrong:
            found[number] = wrong
            if verbose:
                shape = case.X.shape
                print(f"problem {number} {shape} {case.tags} {case.params} {case.cuts}")
                for line in wrong:
                    print(f"    {line}")
    if verbose:
        print(
            f"{len(numbers)} problems in {perf_counter() - start:.0f} s, {len(found)} "
            f"with findings; {loose} references are not close"
        )
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--problems", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0, help="number of the first one")
    parser.add_argument("--quick", action="store_true", help="60 problems")
    parser.add_argument("--only", type=int, help="one problem by its number")
    args = parser.parse_args()
    count = 60 if args.quick else args.problems
    numbers = range(args.seed, args.seed + count)
    if args.only is not None:
        numbers = [args.only]
    with threadpool_limits(1):
        raise SystemExit(1 if run(numbers) else 0)


if __name__ == "__main__":
    main()
