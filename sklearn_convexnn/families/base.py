"""What a family of units gives to training, whatever its units are."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace

import numpy as np

from sklearn_convexnn._utils.deadlines import check
from sklearn_convexnn._utils.devices import (
    has_double,
    in_numpy,
    in_precision,
    on_device,
    placed,
)
from sklearn_convexnn.model.coordinates import Coordinates
from sklearn_convexnn.model.scales import GoesByScales
from sklearn_convexnn.model.windows import below_each_other, dense, grouped

# Entries of the features of units that are in memory at once (32 MB).
_CHUNK = 4_000_000
# Random units to search from, at most.
_MOST_STARTS = 400


@dataclass(frozen=True)
class Candidates:
    """Units with their slopes, steepest first.

    Attributes
    ----------
    units : object
    slopes : ndarray of shape (n_units,)
    complete : bool
        Whether nothing has broken down in the search for them.
    n_starts : int
        Random starts of the search, if that says how much it has not seen.
    """

    units: object
    slopes: np.ndarray
    complete: bool = True
    n_starts: int = 0

    @property
    def missing(self):
        """About the part of further climbs that would end at units not found so far."""
        return 0.0

    def __len__(self):
        return len(self.slopes)

    def select(self, keep):
        """The candidates at index or mask `keep`."""
        return replace(self, units=self.units.select(keep), slopes=self.slopes[keep])

    def allow_for_unseen(self, found, tol):
        """The steepest slope that more of the same search would find.

        `tol` is the duality gap asked for.  There is no estimate; it is the slope
        `found` so far.
        """
        return found


@dataclass(frozen=True)
class UnitFamily(GoesByScales, ABC):
    """Data, and the units that networks on these data are made of.

    A family knows neither losses nor the weight decay.  The cost of a unit is one.

    Attributes
    ----------
    X : ndarray of shape (n_samples, n_features)
        Of single or double precision.
    fit_intercept : bool
        Whether biases are free.
    scales_ratio : float
        The largest scale of a feature over the smallest one.
    placed : array or None
        The same data in the namespace and on the device of another library, if
        products with all of them are to be taken there.
    """

    X: np.ndarray
    fit_intercept: bool
    scales_ratio: float = field(default=1.0, kw_only=True)
    placed: object = field(default=None, kw_only=True)

    # Features of a unit; its output weights are as many for each output.
    n_windows = 1
    # Whether there is a convex program of units that stay in their cells.
    has_cells = False
    # Whether units are not to leave the cells in which they are searched for.
    stays = False

    def on_device_of(self, like):
        """The family that takes products with all of the data where an array is.

        It stays in NumPy for None, and if the device has no double precision.
        """
        if like is None or not on_device(like) or not has_double(like):
            return self
        return replace(self, placed=placed(self.X, like))

    def astype(self, dtype):
        """The family of the data in that precision, a type of NumPy."""
        X, there = self.X.astype(dtype, copy=False), self.placed
        if there is not None:
            there = in_precision(there, dtype)
        return replace(self, X=X, placed=there)

    @property
    def data(self):
        """The data, where products with all of them are taken."""
        return self.X if self.placed is None else self.placed

    def dense(self, outputs):
        """Output weights as a matrix that features are multiplied with.

        Parameters
        ----------
        outputs : ndarray of shape (n_units, n_windows * n_outputs)

        Returns
        -------
        matrix : ndarray of shape (n_windows * n_units, n_outputs)
        """
        return dense(outputs, self.n_windows)

    def grouped(self, matrix):
        """The inverse of `dense`."""
        return grouped(matrix, self.n_windows)

    def columns(self, keep):
        """The columns of features that those of units in a mask are."""
        return np.tile(keep, self.n_windows)

    def lengths(self, Z):
        """Norms of the features of each unit, shape (n_units,)."""
        return np.linalg.norm(below_each_other(Z, self.n_windows), axis=0)

    def reduced(self):
        """The family in coordinates in which its data take less room.

        Returns
        -------
        view : Coordinates
        """
        return Coordinates(self)

    @abstractmethod
    def none(self):
        """No units."""

    @abstractmethod
    def features(self, units, rows=slice(None), dtype=None):
        """Outputs of units, those of a window after each other.

        Parameters
        ----------
        units : object
            Of this family.
        rows : slice
            Of the samples.
        dtype : dtype or None
            By default that of the data.

        Returns
        -------
        Z : ndarray of shape (n_samples, n_windows * n_units)
        """

    def features_in_place(self, units, rows=slice(None), dtype=None):
        """As `features`, as an array of the library, and on the device, of `data`."""
        return self.features(units, rows, dtype)

    @abstractmethod
    def random(self, size, rng):
        """Random units.

        Parameters
        ----------
        size : int
        rng : RandomState

        Returns
        -------
        units : object
        """

    @abstractmethod
    def search(self, N, size, rng, *, known=None, seen=None, thorough=False, floor=0.0):
        """Units that are steep at a dual point, as far as a search finds them.

        Parameters
        ----------
        N : ndarray of shape (n_samples, n_outputs)
            Its columns sum to zero if biases are free.
        size : int
            Random units, and known ones, to start from.
        rng : RandomState
        known, seen : object or None
            Units that a network has, and others that once were steep.
        thorough : bool, default=False
            Whether to search for longer.
        floor : float, default=0.0
            The slope wanted.

        Returns
        -------
        candidates : Candidates
            Or another class with its attributes and methods.
        """

    def most_starts(self, n_outputs):
        """The largest size of a search that is worth its time.

        Parameters
        ----------
        n_outputs : int

        Returns
        -------
        size : int
        """
        return _MOST_STARTS

    def search_work(self, n_outputs):
        """Operations, as of `check`, that a search takes for each random direction.

        Parameters
        ----------
        n_outputs : int

        Returns
        -------
        operations : float
            Zero if that is not known.
        """
        return 0.0

    def starts_of_claim(self, n_outputs):
        """The least size of a search before a bound is believed.

        Parameters
        ----------
        n_outputs : int

        Returns
        -------
        size : int
        """
        return 0

    def linear(self, N, floor):
        """Units that are linear on all samples and steep; of use where biases are free.

        By default there are none but those that `search` finds.

        Parameters
        ----------
        N : ndarray of shape (n_samples, n_outputs)
        floor : float
            The slope wanted.

        Returns
        -------
        slope : float
            No slope of such a unit is larger.
        units : object
        """
        return 0.0, self.none()

    def place(self, problem, n_units, rng, *, max_iter=200, deadline=np.inf):
        """A network to start from, by descent from random units.

        By default these stay where they are, and add nothing yet.

        Parameters
        ----------
        problem : Problem
            Of this family.
        n_units : int
        rng : RandomState
        max_iter : int, default=200
        deadline : float
            Value of ``time.perf_counter()`` at which to stop.

        Returns
        -------
        network : Network
        """
        return problem.null().joined(problem.unused(self.random(n_units, rng)))

    def bursts(self, problem, n_units, rng, pays, report):
        """Find networks to start from by a descent that goes on as long as it pays.

        By default there is one, that of `place`.

        Parameters
        ----------
        problem : Problem
            Of this family.
        n_units : int
            At first.
        rng : RandomState
        pays : float
            Relative gain below which the descent ends.
        report : callable
            Called with networks on the way; returns their objectives.

        Yields
        ------
        None
            Where it can wait.
        """
        report(self.place(problem, n_units, rng))
        yield

    def descend(self, problem, network, *, max_iter=200, deadline=np.inf):
        """A network moved by descent on the non-convex objective.

        By default its units stay where they are.

        Parameters
        ----------
        problem : Problem
            Of this family.
        network : Network
        max_iter : int, default=200
        deadline : float
            Value of ``time.perf_counter()`` at which to stop.

        Returns
        -------
        network : Network
        """
        return network

    @abstractmethod
    def upper_slope(self, N):
        """Proven upper bound of the slopes of all units at a dual point.

        Parameters
        ----------
        N : ndarray of shape (n_samples, n_outputs)
            Its columns sum to zero if biases are free.

        Returns
        -------
        slope : float
        """

    @abstractmethod
    def layers(self, network):
        """Weights of a network in the shapes of scikit-learn's MLP.

        Parameters
        ----------
        network : Network

        Returns
        -------
        coefs, intercepts : list of ndarray
        """

    @abstractmethod
    def network_of_layers(self, coefs, intercepts):
        """The inverse of `layers`.

        Parameters
        ----------
        coefs, intercepts : list of ndarray

        Returns
        -------
        network : Network
        """

    def merged(self, network):
        """The network with units that are the same as one.

        Parameters
        ----------
        network : Network

        Returns
        -------
        network : Network
        """
        return network

    def steepest(self, units, N, most):
        """At most so many units, those that are steepest at a dual point."""
        order = np.argsort(-self.slopes(units, N), kind="stable")
        return units.select(order[:most])

    def slopes(self, units, N):
        """How steeply the dual function rises along units, shape (n_units,).

        The norm of the slopes over the outputs.
        """
        return np.linalg.norm(self.slopes_by_output(units, N), axis=1)

    def slopes_by_output(self, units, N):
        """Slopes of units for each of their features and each output.

        Parameters
        ----------
        units : object
            Of this family.
        N : ndarray of shape (n_samples, n_outputs)

        Returns
        -------
        slopes : ndarray of shape (n_units, n_windows * n_outputs)
            In double precision, whatever that of ``X``: they decide on bounds.
        """
        slopes = np.zeros((self.n_windows * len(units), N.shape[1]))
        for rows in self.row_chunks(len(units)):
            check()
            part = self.features_in_place(units, rows, np.float64)
            slopes += in_numpy(part.T @ placed(N[rows], part))
        return self.grouped(slopes)

    def row_chunks(self, width):
        """Slices of samples, of which arrays of `width` columns are small."""
        size = max(1, _CHUNK // max(width, self.X.shape[1], 1))
        n = len(self.X)
        return [slice(i, min(i + size, n)) for i in range(0, n, size)]
