"""How steep a unit can be that a search has not seen."""

from dataclasses import dataclass

import numpy as np

# Climbs that an independent search may make: what the steepest of so many would find is
# what a bound allows for, and part of it again, since a tail is known from few maxima.
_HORIZON, _SAFETY = 300_000, 1.5
# Part of the climbs, and climbs at least, that count as steep; maxima from which the
# shape of their tail is estimated, and the least and the largest shape.
_TOP, _FEWEST, _FOR_SHAPE = 0.05, 20, 8
_SHAPES = -1.0, 0.5
# How many times as far as the steepest slope that is known a tail reaches at least.
_REACH = 2.0
# Part of their slope by which climbs can end below the tops of their hills, and part of
# the gap asked for that may be given for it.
_SHORT_OF, _GIVEN = 3e-4, 0.03

# Part of the slope found that a search which was cut short allows for at least: half,
# or so much divided by its starts, times the part of the hills that it has not seen.
_HALF, _DIVIDED = 0.5, 15.0
# How many times the part of the hills that is missing is the part of the height of the
# steepest one by which a steeper one may exceed it.
_TIMES = 10.0

UNTOLD = 1.3
"""How many times the slope found is enough where many climbs have seen all samples,
whatever their tail says."""


def short_of_tops(tol):
    """Part by which the slopes of climbs are raised, which can end below the tops.

    Parameters
    ----------
    tol : float
        The duality gap asked for: the smaller, the longer the search.

    Returns
    -------
    part : float
    """
    return min(_SHORT_OF, _GIVEN * tol)


def missing_mass(hits):
    """About the part of further climbs that would end on hills not found so far.

    Parameters
    ----------
    hits : ndarray of shape (n_maxima,)
        Climbs that ended on each hill.

    Returns
    -------
    part : float
    """
    return float(np.sum(hits == 1) / np.sum(hits)) if np.any(hits) else 1.0


def allow_for_hills(allowed, found, alpha, missing=1.0, n_starts=np.inf):
    """The slope to allow for after a search that has not found all hills.

    What it has missed is up to as much steeper than `found` as that is steeper than
    the neurons of a good network, a part of it if a part of the hills is missing
    (measured on planted data of up to 16,000 samples, and on tables).  Of few climbs
    the tail is not known: most of those that are steep end at neurons that the network
    has, which are about equally steep.

    Parameters
    ----------
    allowed : float
        What the tail of the climbs tells.
    found : float
        The steepest slope known.
    alpha : float
        The slope of the neurons of the best network.
    missing : float, default=1.0
        The `missing_mass` of the climbs, if these saw all samples.
    n_starts : int, default=inf
        Of a search that was cut short.

    Returns
    -------
    slope : float
    """
    if missing == 0.0 and n_starts == np.inf:
        return max(allowed, found)
    part = missing * min(_HALF, _DIVIDED / max(n_starts, 1))
    again = min(1.0, _TIMES * missing) if n_starts == np.inf else 1.0
    return max(allowed, (1.0 + part) * found, found + again * (found - alpha))


@dataclass(frozen=True)
class Unseen:
    """What a search at a dual point has not seen.

    Attributes
    ----------
    alpha, missing, n_starts : float
        As of `allow_for_hills`.
    tail : float
        How many times the slope found the tail of the climbs allows for.
    """

    alpha: float
    tail: float
    missing: float
    n_starts: float = np.inf

    def allow(self, found):
        """The slope to allow for where `found` is the steepest one known."""
        args = self.tail * found, found, self.alpha
        return float(allow_for_hills(*args, self.missing, self.n_starts))


def allow_for_unseen(found, slopes, hits, n_starts):
    r"""Estimate the steepest slope that many more climbs would find.

    The probability that another climb ends in a maximum that no climb has found is
    about the part of the climbs whose maxima were found by no other (the missing mass
    of Good).  Of `_HORIZON` more climbs so many would find new ones among the steep.
    The excess of these over a threshold has a generalised Pareto distribution, whose
    mean and shape are estimated from the maxima that are known; the shape is taken
    half way between its estimate and that of an exponential tail, and so that a tail
    with an end reaches at least twice as far as `found`, which the starts that count
    need not have found.  The result is what
    as many draws exceed once, together with those that it takes to find `found`, and
    by half as much again above `found`.

    Parameters
    ----------
    found : float
        The steepest slope known, from whatever source.
    slopes : ndarray of shape (n_maxima,)
        Distinct local maxima.
    hits : ndarray of shape (n_maxima,)
        Climbs from independent starts that ended there.
    n_starts : int
        Independent starts, with those that were given up or ended lower.

    Returns
    -------
    slope : float
        At least `found`, and no more if each of the steep maxima was found more than
        once, or none at all was.

    References
    ----------
    .. [1] Good, I. J. (1953). "The population frequencies of species and the
       estimation of population parameters". Biometrika 40. Section 2.
    .. [2] Hosking, J. R. M. and Wallis, J. R. (1987). "Parameter and quantile
       estimation for the generalized Pareto distribution". Technometrics 29.
       Section 2 (probability-weighted moments).
    """
    if n_starts > 0 and np.sum(hits) <= 1 and np.any(hits == 0):
        # Random climbs do not even find what is known.
        return UNTOLD * float(found)
    order = np.argsort(-slopes[hits > 0], kind="stable")
    slopes, hits = slopes[hits > 0][order], hits[hits > 0][order]
    most = max(_TOP * n_starts, _FEWEST)
    count = min(1 + np.searchsorted(np.cumsum(hits), most), len(slopes) - 1)
    single = np.sum(hits[: max(count, 0)] == 1)
    if single == 0 or slopes[0] <= slopes[count]:
        return float(found)
    threshold, excess = slopes[count], slopes[:count] - slopes[count]
    mean, shape = np.mean(excess), 0.0
    if count >= _FOR_SHAPE:
        # From the smallest one on.
        ranks = (np.arange(count, 0, -1) - 0.35) / count
        second = np.mean((1.0 - ranks) * excess)
        estimate = 2.0 - mean / max(mean - 2.0 * second, 1e-9 * mean)
        shape = 0.5 * np.clip(estimate, *_SHAPES)
    over = max(found - threshold, 0.0)
    shape = max(shape, -mean / max(_REACH * over, mean))
    # An exponential tail is the limit.
    shape = shape if abs(shape) > 1e-6 else 1e-6
    scale = mean * (1.0 - shape)
    known = over / scale
    draws = _HORIZON * single / n_starts
    # In place of a power that overflows: the logarithm of all draws.
    total = np.logaddexp(np.log(draws), np.log1p(shape * known) / shape)
    expected = threshold + scale * np.expm1(shape * total) / shape
    return float(found + _SAFETY * max(expected - found, 0.0))
