"""Networks from descent alone: for scores, which need neither bounds nor proofs."""

from time import perf_counter

import numpy as np
from sklearn.utils import check_random_state

from sklearn_convexnn.families.two_layer.placing import improve_neurons, place_neurons
from sklearn_convexnn.training.trained import trained_at_once

# Steps from random neurons, and from those of a neighbour.
_FIRST_STEPS, _STEPS = 300, 100
# Relative gain of a step below which no score would change.
_RTOL = 1e-6


def suits_descent(estimator, X):
    """Whether descent finds about the networks that the estimator would.

    It gets stuck in bad minima if all kinks are along one line, and it does not keep
    to given patterns, or to few neurons.

    Parameters
    ----------
    estimator : estimator
    X : {array, sparse matrix} of shape (n_samples, n_features)

    Returns
    -------
    suits : bool
    """
    if estimator.arrangements != "adaptive" or estimator.max_neurons is not None:
        return False
    X = np.asarray(X.toarray() if hasattr(X, "toarray") else X, dtype=np.float64)
    centre = X.mean(axis=0) if estimator.fit_intercept else 0.0
    return np.linalg.matrix_rank(X - centre) > 1


def train_by_descent(problem, known, settings, task, duals):
    """Train one network by descent on the non-convex objective.

    Parameters
    ----------
    problem, known, settings, task, duals
        As of `Settings.method`; known neurons are the network to start from, but
        for its offset.  By default neurons are placed at random.

    Returns
    -------
    trained : Trained
        Without a bound.
    """
    start, p = perf_counter(), problem
    options = {"rtol": _RTOL, "deadline": settings.deadline}
    network = p.null()
    if known is None:
        n_neurons = min(settings.n_arrangements, max(2 * p.Y.size, 100))
        rng = check_random_state(settings.seed)
        descended = place_neurons(p, n_neurons, rng, _FIRST_STEPS, **options)
    else:
        known = p.with_best_offset(known.select(known.sizes > 0))
        descended = improve_neurons(p, known, _STEPS, **options)
    if p.objective(descended) < p.objective(network):
        network = descended
    objective = p.objective(network)
    settings.tell(
        f"descent: {len(network)} neurons, objective "
        f"{settings.units.objective(objective):.8g}"
    )
    return trained_at_once(
        p,
        network,
        -np.inf,
        seconds=perf_counter() - start,
        certificate="estimated",
        status="descent",
        message="there was a descent, and no search for a bound",
        n_iter=1,
        n_patterns=len(network),
    )
