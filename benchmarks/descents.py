"""Descents of a wide network: which of them is best where, and after how long.

All minimise the same objective of a two-layer ReLU network with free biases, on one
thread: half of the squared errors plus `alpha` / 2 times the sum of the squares of all
weights.  Data are planted: normal inputs, outputs of twenty random neurons with noise,
`alpha` a hundredth of the samples.  All begin at the package's random neurons, of two
widths, and compute in single precision; where rounding errors stop them, L-BFGS and
projection go on in double precision:

* L-BFGS: ``solvers/descent.py`` of the package, on all samples, with 20 corrections;
* batches: Adam of ``solvers/mini_batches.py``.  Its rate falls to zero over a length
  that has to be given, so there are runs of 10, 20, 40, ... steps, each from new
  neurons;
* bursts: ``families/two_layer/bursts.py``, which combines both.  The width is the one
  that it is given; it makes three times as many neurons, at once or on the way, and
  may do so again;
* projection: L-BFGS, as above, on the hidden weights and biases.  The best output
  weights are solved for at each evaluation, by a Cholesky factor and a step of
  refinement.  To solve only every 10, 50 or 200 steps, with L-BFGS on all weights in
  between, was worse;
* Gauss-Newton: Levenberg-Marquardt steps on the patterns of the moment.  Conjugate
  gradients, with the diagonal as preconditioner and for the damping, take at most 30
  steps or end at a residual of 0.6: more exact steps end in worse minima.  The damping
  falls to a third after steps that gain half of what is predicted and rises fourfold
  after those that gain less than a tenth.  Kinks make it rise without end if each step
  has to gain, so one may be worse than the one before, but not than all of the last
  ten, and the damping of an accepted step falls to 3 if it is larger.  Three and one
  tenth of a step are tried before a new one.

What a method has at a time is its best network until then, and a constant before the
first.  One function computes the objectives of these networks in double precision, with
hidden and output weights of a neuron of equal norms, which make the same outputs at the
least cost.  Seconds are those of the processor, without that function.

    python benchmarks/descents.py --data FOLDER --out doc/benchmarks

With ``--data`` there are two UCI tables as well, as `benchmarks/anytime.py` has them.
It takes two hours.  ``--quick`` takes two tiny problems and some seconds, and
compares the derivatives of the last two methods, which are of this file, with
differences.
"""

import argparse
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from time import process_time
from unittest.mock import patch

import numpy as np
from anytime import Stopped, planted, table
from common import machine
from scipy.linalg import cho_factor, cho_solve
from scipy.optimize import approx_fprime
from threadpoolctl import threadpool_limits

from sklearn_convexnn.families.two_layer.bursts import descend_in_bursts
from sklearn_convexnn.families.two_layer.family import TwoLayer
from sklearn_convexnn.families.two_layer.placing import network_of, random_weights
from sklearn_convexnn.losses import Separable, make_loss
from sklearn_convexnn.model.problem import Problem
from sklearn_convexnn.solvers import descent
from sklearn_convexnn.solvers.lbfgs import LBFGS
from sklearn_convexnn.solvers.mini_batches import descend_in_batches
from sklearn_convexnn.solvers.weights import Weights

TINY = ((200, 3), (300, 5))
SHAPES = (
    (300, 5),
    (300, 100),
    (3000, 20),
    (3000, 300),
    (5000, 3000),
    (20_000, 50),
    (100_000, 5),
    (100_000, 50),
)
TABLES = ("musk-1", "ionosphere")
WIDTHS = (100, 300)
# Seconds to look at, and later ones for data of so many entries.
LOOKS, LATER, MANY = (0.3, 1.0, 3.0, 10.0), (30.0,), 400_000
SHORTEST = 10  # steps of the first run of batches
# Outputs of neurons that are worked on at once, so that they stay in the cache.
BLOCK = 250_000
# Of conjugate gradients: steps, and residual relative to the one at the start.
MOST, CLOSE = 30, 0.6
# Damping at the start, for a new step, and from which a step is taken in any case.
DAMPING, FRESH, LARGEST = 0.3, 3.0, 1e3
# Parts of the predicted gain at which the damping changes, and by how much.
GOOD, EASIER, BAD, HARDER = 0.5, 1 / 3, 0.1, 4.0
# A step has to end below one of so many objectives, or one of these parts of it.
MEMORY, PARTS = 10, (0.3, 0.1)


class Record:
    """The best network by each of some times, of the method's own clock."""

    def __init__(self, problem, looks):
        self.problem, self.looks = problem, looks
        self.best = problem.null()
        self.value = problem.objective(self.best)
        self.kept = [self.best]
        self.begin = process_time()

    def seconds(self):
        return process_time() - self.begin

    def check(self):
        """Stop whoever asks after the last of the times."""
        if self.seconds() > self.looks[-1]:
            raise Stopped

    def take(self, found):
        """Weights or a network better than those before."""
        passed = np.searchsorted(self.looks, self.seconds())
        self.kept += [self.best] * (1 + passed - len(self.kept))
        self.best = found

    def offer(self, network):
        """Objective of a network that may be better; the clock stands still."""
        begin = process_time()
        value = self.problem.objective(network)
        self.begin += process_time() - begin
        if value < self.value:
            self.take(network)
            self.value = value
        return value

    def values(self):
        """Objectives at the times."""
        kept = self.kept + [self.best] * (1 + len(self.looks) - len(self.kept))
        values = [
            self.problem.objective(network_of(one) if isinstance(one, Weights) else one)
            for one in kept
        ]
        return np.minimum.accumulate(values)[1:]


class Watched(Separable):
    """A loss that stops the method that asks for it when its time is up."""

    def __init__(self, loss, record):
        super().__init__(loss)
        self.record = record

    def value(self, F, Y, s):
        self.record.check()
        return super().value(F, Y, s)

    def gradient(self, F, Y, s):
        self.record.check()
        return super().gradient(F, Y, s)


def problem_of(X, y, alpha):
    """The problem of data, in double precision."""
    loss = Separable(make_loss("squared_error"))
    family = TwoLayer(X, fit_intercept=True)
    return Problem(family, y[:, None], np.ones(len(y)), loss, alpha)


def precisions(problem):
    """The problem, and in double precision for those whom rounding errors stop."""
    yield problem
    family = replace(problem.family, X=problem.X.astype(np.float64))
    yield replace(problem, family=family)


def train_lbfgs(problem, width, rng, record):
    weights = random_weights(problem, width, rng)
    options = {"rtol": 0.0, "report": record.take}
    # Every step is a network.
    with patch.multiple(descent, _WORTH=0.0):
        for p in precisions(problem):
            weights = descent.Descent(p, weights).run(10**6, **options)


def train_in_batches(problem, width, rng, record):
    n_steps = SHORTEST
    while True:
        start = random_weights(problem, width, rng)
        found = descend_in_batches(problem, start, rng, n_steps)
        record.offer(network_of(found))
        n_steps *= 2


def train_in_bursts(problem, width, rng, record):
    for _ in descend_in_bursts(problem, width, rng, -np.inf, record.offer):
        pass


def train_projected(problem, width, rng, record):
    weights = random_weights(problem, width, rng)
    for p in precisions(problem):
        reduced = Projected(p, weights, record)
        LBFGS(reduced.value_and_gradient, reduced.start).run(10**6)
        weights = reduced.best


def train_gauss_newton(problem, width, rng, record):
    model = Patterns(problem, random_weights(problem, width, rng), record)
    x, damping = model.start, DAMPING
    here = model.evaluate(x)
    values = [here.value]
    while True:
        gradient, diagonal = model.expand(x, here)
        moved = None
        while moved is None:
            step, gain = model.step(gradient, diagonal, damping)
            level = np.inf if damping > LARGEST else max(values[-MEMORY:])
            moved = x + step, model.evaluate(x + step)
            part = (here.value - moved[1].value) / gain
            damping *= EASIER if part > GOOD else HARDER if part < BAD else 1.0
            if not moved[1].value < level:
                moved = part_below(model, x, step, level)
        x, here = moved
        damping = min(damping, FRESH)
        if here.value < min(values):
            record.take(model.weights_of(x))
        values.append(here.value)


def part_below(model, x, step, level):
    """The end of a part of a step, and what is there, if it is below a level."""
    for part in PARTS:
        there = model.evaluate(x + part * step)
        if there.value < level:
            return x + part * step, there
    return None


METHODS = {
    "L-BFGS": train_lbfgs,
    "batches": train_in_batches,
    "bursts": train_in_bursts,
    "projection": train_projected,
    "Gauss-Newton": train_gauss_newton,
}


class Layers:
    """Sums over the samples that networks of one output need, block by block."""

    def __init__(self, problem, width, record):
        self.X, self.y, self.alpha = problem.X, problem.y, problem.alpha
        self.record = record
        n, d = self.X.shape
        self.shape, self.dtype = (d, width), self.X.dtype
        rows = max(1, BLOCK // width)
        self.blocks = [slice(i, i + rows) for i in range(0, n, rows)]

    def short(self, *arrays):
        """Arrays in the precision of the data."""
        return [array.astype(self.dtype, copy=False) for array in arrays]

    def features(self, W, b):
        """Outputs of the neurons."""
        A = np.empty((len(self.X), len(b)), self.dtype)
        W, b = self.short(W, b)
        for rows in self.blocks:
            part = A[rows]
            np.matmul(self.X[rows], W, out=part)
            part += b
            np.maximum(part, 0.0, out=part)
        return A

    def residual(self, A, v, offset):
        """Outputs of the network minus the targets."""
        (v,) = self.short(v)
        return (A @ v).astype(float) + offset - self.y

    def back(self, A, f):
        """Derivatives of ``f @ A @ v`` by the output weights `v`."""
        (f,) = self.short(f)
        return (f @ A).astype(float)

    def back_to_hidden(self, A, f, v):
        """Derivatives of ``f @ A @ v`` by hidden weights and biases."""
        to_W, to_b = np.zeros(self.shape), np.zeros(len(v))
        f, v = self.short(f, v)
        for rows in self.blocks:
            part = (A[rows] > 0) * v
            part *= f[rows, None]
            to_W += self.X[rows].T @ part
            to_b += part.sum(axis=0)
        return to_W, to_b


def as_weights(W, b, v, offset):
    return Weights(W, v[:, None], b, np.zeros(len(b), dtype=bool), np.array([offset]))


class Projected(Layers):
    """The objective of hidden weights and biases, with the best output weights."""

    def __init__(self, problem, start, record):
        super().__init__(problem, len(start.bias), record)
        self.least, self.best = np.inf, start
        # Units as those of the package.
        units = start.units(np.linalg.norm(self.X) / np.sqrt(self.X.size))
        self.units = np.repeat(units[::2], [start.hidden.size, start.bias.size])
        self.start = np.concatenate([start.hidden.ravel(), start.bias]) / self.units

    def value_and_gradient(self, x):
        self.record.check()
        x, (d, m) = self.units * x, self.shape
        W, b = x[: d * m].reshape(d, m), x[d * m :]
        A = self.features(W, b)
        v, offset = self.solve(A)
        r = self.residual(A, v, offset)
        value = 0.5 * (r @ r + self.alpha * (np.sum(W**2) + v @ v))
        if value < self.least:
            self.least, self.best = value, as_weights(W, b, v, offset)
            self.record.take(self.best)
        # To change the best output weights does not matter to first order.
        to_W, to_b = self.back_to_hidden(A, r, v)
        gradient = np.concatenate([(to_W + self.alpha * W).ravel(), to_b])
        return value, self.units * gradient

    def solve(self, A):
        """The best output weights and offset: a ridge regression."""
        n, m = A.shape
        gram, mean = self.alpha * np.eye(m), np.zeros(m)
        for rows in self.blocks:
            gram += A[rows].T @ A[rows]
            mean += A[rows].sum(axis=0) / n
        gram -= n * np.outer(mean, mean)
        factor, v = cho_factor(gram, check_finite=False), np.zeros(m)
        for _ in range(2):
            r = self.residual(A, v, 0.0)
            slope = self.back(A, r - r.mean()) + self.alpha * v
            v = v - cho_solve(factor, slope, check_finite=False)
        return v, -self.residual(A, v, 0.0).mean()


class Evaluated:
    """Outputs of the neurons, residual and objective of a network."""

    def __init__(self, A, r, penalty):
        self.A, self.r, self.value = A, r, 0.5 * (r @ r) + penalty


class Patterns(Layers):
    """The objective of all weights, and its curvature if no pattern changes."""

    def __init__(self, problem, start, record):
        super().__init__(problem, len(start.bias), record)
        parts = [start.hidden.ravel(), start.bias, start.output[:, 0], start.offset]
        self.start, sizes = np.concatenate(parts), [len(part) for part in parts]
        self.ends = np.cumsum(sizes)[:-1]
        self.decay = np.repeat([self.alpha, 0.0, self.alpha, 0.0], sizes)
        self.square = np.mean(np.square(self.X), dtype=float)

    def split(self, x):
        """Hidden weights, biases, output weights and the offset of a vector."""
        W, b, v, offset = np.split(x, self.ends)
        return W.reshape(self.shape), b, v, offset[0]

    def weights_of(self, x):
        return as_weights(*self.split(x))

    def evaluate(self, x):
        self.record.check()
        W, b, v, offset = self.split(x)
        A = self.features(W, b)
        return Evaluated(A, self.residual(A, v, offset), 0.5 * (self.decay @ x**2))

    def expand(self, x, here):
        """Derivatives of the objective, and about the diagonal of `curvature`."""
        A, r, (_, _, v, _) = here.A, here.r, self.split(x)
        self.A, self.gates = A, np.empty_like(A)
        actives, squares = np.zeros(len(v)), np.zeros(len(v))
        (short,) = self.short(v)
        for rows in self.blocks:
            active = A[rows] > 0
            actives += active.sum(axis=0)
            squares += np.einsum("nm,nm->m", A[rows], A[rows])
            np.multiply(active, short, out=self.gates[rows])
        to_W, to_b = self.back_to_hidden(A, r, v)
        slopes = [to_W.ravel(), to_b, self.back(A, r), [r.sum()]]
        bends, squares = (
            np.maximum(some, 1e-3 * some.mean()) for some in (v**2 * actives, squares)
        )
        of_W = np.tile(self.square * bends, len(to_W))
        diagonal = np.concatenate([of_W, bends, squares, [len(r)]])
        return np.concatenate(slopes) + self.decay * x, diagonal

    def curvature(self, x):
        """Product of the Gauss-Newton matrix with a vector."""
        self.record.check()
        W, b, v, offset = self.split(x)
        W, b, v = self.short(W, b, v)
        to_W, to_b, to_v, to_offset = (np.zeros_like(part) for part in self.split(x))
        for rows in self.blocks:
            gates = self.gates[rows]
            z = self.X[rows] @ W
            z += b
            z *= gates
            f = z.sum(axis=1) + self.A[rows] @ v + self.dtype.type(offset)
            np.multiply(gates, f[:, None], out=z)
            to_W += self.X[rows].T @ z
            to_b += z.sum(axis=0)
            to_v += f @ self.A[rows]
            to_offset += f.sum()
        parts = [to_W.ravel(), to_b, to_v, [to_offset]]
        return np.concatenate(parts) + self.decay * x

    def step(self, gradient, diagonal, damping):
        """A step by conjugate gradients, and the gain that it should have."""
        shift = damping * diagonal
        inverse = 1.0 / (diagonal + self.decay + shift)
        step, r = np.zeros_like(gradient), -gradient
        p = z = inverse * r
        first = rz = r @ z
        for _ in range(MOST):
            q = self.curvature(p) + shift * p
            length = rz / (p @ q)
            step = step + length * p
            r = r - length * q
            z = inverse * r
            rz, before = r @ z, rz
            if rz <= CLOSE**2 * first:
                break
            p = z + (rz / before) * p
        bent = -gradient - r - shift * step
        return step, -(gradient @ step) - 0.5 * (bent @ step)


def check_derivatives():
    """Compare derivatives of this file with differences, in double precision."""
    rng = np.random.RandomState(0)
    problem = problem_of(*planted(50, 3))
    start, record = random_weights(problem, 8, rng), Record(problem, [np.inf])
    reduced, full = (kind(problem, start, record) for kind in (Projected, Patterns))
    x = reduced.start
    differences = approx_fprime(x, lambda x: reduced.value_and_gradient(x)[0], 1e-7)
    gradient = reduced.value_and_gradient(x)[1]
    np.testing.assert_allclose(gradient, differences, rtol=1e-4, atol=1e-3)
    x = full.start
    differences = approx_fprime(x, lambda x: full.evaluate(x).value, 1e-7)
    gradient, _ = full.expand(x, full.evaluate(x))
    np.testing.assert_allclose(gradient, differences, rtol=1e-4, atol=1e-3)
    # Residuals have the curvature but for the decay.
    s = rng.standard_normal(len(x))
    change = (full.evaluate(x + 1e-6 * s).r - full.evaluate(x - 1e-6 * s).r) / 2e-6
    bent = s @ (full.curvature(s) - full.decay * s)
    np.testing.assert_allclose(bent, change @ change, rtol=1e-5)


def run(train, problem, width, seed, looks):
    """Objectives of the networks of a method at some times."""
    family = replace(problem.family, X=problem.X.astype(np.float32))
    record = Record(problem, looks)
    loss = Watched(problem.loss.loss, record)
    with suppress(Stopped):
        train(
            replace(problem, family=family, loss=loss),
            width,
            np.random.RandomState(seed),
            record,
        )
    return record.values()


def looks_of(problem, limit):
    """Times to look at, the limit as the last one if there is one."""
    looks = LOOKS + (LATER if problem.X.size >= MANY else ())
    if limit is None or limit > looks[-1]:
        return looks
    return (*(look for look in looks if look < limit), limit)


def measure(problem, args):
    """Times, medians of the seeds by method and width, and the best objective."""
    looks, medians, least = looks_of(problem, args.limit), {}, np.inf
    for name, train in METHODS.items():
        for width in WIDTHS:
            values = [
                run(train, problem, width, seed, looks) for seed in range(args.seeds)
            ]
            medians[f"{name}, {width}"] = np.median(values, axis=0)
            least = min(least, np.min(values))
    return looks, medians, least


def lines_of(name, problem, looks, medians, least):
    """Heading and table of a problem; the best at each time are bold."""
    n, d = problem.X.shape
    yield f"## {name}: {n} samples, {d} features"
    yield ""
    constant = problem.objective(problem.null())
    yield f"The best known objective is {least:.6g}, that of a constant {constant:.6g}."
    yield ""
    yield f"| method | {' | '.join(f'{look:g} s' for look in looks)} |"
    yield f"|{' :-- |' * (1 + len(looks))}"
    best = np.min(list(medians.values()), axis=0)
    for name, values in medians.items():
        cells = [
            f"**{shown(value / least)}**" if value == low else shown(value / least)
            for value, low in zip(values, best)
        ]
        yield f"| {name} | {' | '.join(cells)} |"
    yield ""


def shown(ratio):
    """By how much an objective is above the best, from its ratio to that."""
    return f"{100 * (ratio - 1):.2f} %" if ratio < 10 else f"{ratio:.3g} times"


def about(args):
    return f"""# Descents of a wide network

By how much objectives of two-layer networks are above the best one that is known, after
some seconds of the processor on one thread.  The best known is that of any method and
seed at any of the times.  `alpha` of planted data is a hundredth of the samples.
Seeds: {args.seeds}, with medians of more than one; the best at each time are bold.  The
number after the method is the width.

- L-BFGS: of the package, on all samples.
- batches: Adam of the package, with runs that are twice as long each time.
- bursts: what fits of the package do at first, batches and L-BFGS by turns.
- projection: L-BFGS on the hidden weights and biases, with the best output weights of
  each evaluation.
- Gauss-Newton: damped steps with the patterns of the moment, by conjugate gradients.

Batches are best where samples are many, full batches at first where they are few or
features are many.  Gauss-Newton gets far on planted data with many features, but not on
tables of that shape.  The projection is the best one on small tables, and slow with
many samples or wide networks.  Fits use bursts, which are close to the best on most of
these problems, but behind it by some percent in the first second where features are
many.

{{tables}}
{machine(["numpy", "scipy"])}
Made by `benchmarks/descents.py`, which says more on each method.
"""


def problems(args):
    """Pairs (name, data), one after the other."""
    for shape in TINY if args.quick else SHAPES:
        name = "x".join(map(str, shape))
        if not args.only or name in args.only:
            yield "planted", planted(*shape)
    for name in TABLES if args.data and not args.quick else ():
        data = table(args.data, name)
        if data is not None and (not args.only or name in args.only):
            yield name, data


def write(folder, args, lines):
    folder.mkdir(parents=True, exist_ok=True)
    text = about(args).replace("{tables}", "\n".join(lines))
    Path(folder, "descents.md").write_text(text)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="two tiny problems")
    parser.add_argument("--data", type=Path, metavar="FOLDER", help="of UCI tables")
    parser.add_argument("--only", nargs="*", metavar="NAME", help="these, as 300x5")
    parser.add_argument("--seeds", type=int, help="runs of each method (3; quick: 1)")
    parser.add_argument("--limit", type=float, help="seconds of a run (quick: 0.2)")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="for descents.md")
    args = parser.parse_args()
    args.seeds = args.seeds or (1 if args.quick else 3)
    args.limit = args.limit or (0.2 if args.quick else None)
    lines = []
    with threadpool_limits(limits=1):
        if args.quick:
            check_derivatives()
        for name, data in problems(args):
            problem = problem_of(*data)
            new = list(lines_of(name, problem, *measure(problem, args)))
            print(*new, sep="\n", flush=True)
            lines += new
            if args.out:
                write(args.out, args, lines)


if __name__ == "__main__":
    main()
