"""Units in which a network is trained: data, outputs and losses of order one."""

from dataclasses import dataclass, replace

import numpy as np

from sklearn_convexnn._utils.devices import root_mean_square
from sklearn_convexnn.losses.base import power_of_two
from sklearn_convexnn.model.results import DualPoint
from sklearn_convexnn.model.whitening import Whitening

# That of data, targets and weights together, and more.
_RANGE = 1e65


@dataclass(frozen=True)
class Units:
    """What the numbers of a training problem have been divided by.

    With data ``x' = (x - centre) / data`` and a loss in other units,
    ``L(output * f' + shift) = value * L'(f')``, the network ``f`` of weight decay
    ``alpha`` is ``output * f' + shift`` for the network ``f'`` of weight decay
    ``alpha * output / (data * value)``.  Scales are powers of two, so that no digit
    of anything is lost.

    Attributes
    ----------
    data, output, value : float
        Units of the data, of the outputs and of the objective.
    shift : ndarray of shape (n_outputs,)
        In the units of the targets.
    centre : ndarray of shape (n_features,)
    constant : float, default=0.0
        What is added to objectives: a part of the loss that no network changes.
    whitening : Whitening or None, default=None
        What has been done to the data before, `centre` being that of the data before.
    """

    data: float
    output: float
    value: float
    shift: np.ndarray
    centre: np.ndarray
    constant: float = 0.0
    whitening: Whitening | None = None

    def after(self, whitening):
        """The units of data that had been whitened before.

        Parameters
        ----------
        whitening : Whitening

        Returns
        -------
        units : Units
        """
        centre = whitening.centre + self.centre @ whitening.back
        return replace(self, centre=centre, whitening=whitening)

    @property
    def dual(self):
        """Unit of dual variables."""
        return self.value / self.output

    @property
    def slope(self):
        """Unit of the slopes of neurons, and of the weight decay."""
        return self.data * self.dual

    @property
    def weight(self):
        """Unit of the weights of the last two layers, which are of one size."""
        return np.sqrt(self.output / self.data)

    def objective(self, value):
        """An objective, or a bound of it, in the user's units."""
        return self.value * value + self.constant

    def of_objective(self, value):
        """The inverse of `objective`."""
        return (value - self.constant) / self.value

    def weight_decay(self, alpha):
        """The weight decay in these units.

        Raises
        ------
        ValueError
            If products of such numbers would not be numbers any more.
        """
        scaled = alpha / self.slope
        if not 1.0 / _RANGE <= scaled <= _RANGE:
            raise ValueError(
                f"alpha={alpha:g} is {scaled:.3g} in units of the slopes of this data, "
                f"which is not within {1.0 / _RANGE:g} and {_RANGE:g}; change its "
                "units, or use alpha='scale'."
            )
        return scaled

    def weights(self, coefs, intercepts, dtype=np.float64):
        """Weights of a network for the data as they were.

        Parameters
        ----------
        coefs, intercepts : list of ndarray
            Of a network in these units, of any number of layers.
        dtype : dtype, default=float64
            Precision of the weights.

        Returns
        -------
        coefs, intercepts : list of ndarray
            The biases are in double precision, and make up for the rounding of the
            first weights at the centre of the data.
        """
        *inner, last, final = coefs
        coefs = [*inner, last * self.weight, final * self.weight]
        if self.whitening is not None:
            coefs[0] = self.whitening.forward @ coefs[0]
        coefs = [part.astype(dtype) for part in coefs]
        *inner, last, final = intercepts
        biases = [part * self.data for part in inner]
        biases += [last * (self.data * self.weight), final * self.output + self.shift]
        biases[0] = biases[0] - self.centre @ coefs[0].astype(np.float64)
        return coefs, biases

    def layers(self, coefs, intercepts):
        """The inverse of `weights`."""
        first = intercepts[0] + self.centre @ coefs[0]
        *inner, last, final = coefs
        coefs = [*inner, last / self.weight, final / self.weight]
        if self.whitening is not None:
            coefs[0] = self.whitening.back @ coefs[0]
        *inner, last, final = [first, *intercepts[1:]]
        biases = [part / self.data for part in inner]
        biases += [last / (self.data * self.weight), (final - self.shift) / self.output]
        return coefs, biases

    def in_user_units(self, trained):
        """What training has found out, in the units of the data as they were."""
        history = dict(trained.history)
        for key in ("objective", "dual_bound"):
            history[key] = self.objective(history[key])
        proven, dual = trained.proven_bound, trained.dual
        return replace(
            trained,
            dual_bound=self.objective(trained.dual_bound),
            proven_bound=None if proven is None else self.objective(proven),
            history=history,
            dual=None
            if dual is None
            else DualPoint(dual.nu * self.dual, dual.kappa * self.slope, dual.proven),
        )

    def dual_points(self, points):
        """Dual points of data as they were, in these units."""
        return [
            DualPoint(point.nu / self.dual, point.kappa / self.slope, point.proven)
            for point in points
        ]


def units_of(X, y, sample_weight, loss, free_bias, centre):
    """Units in which data and targets are of order one, and the loss in them.

    Parameters
    ----------
    X : {array, sparse array} of shape (n_samples, n_features)
        Of any library, with `centre` taken off.
    y : ndarray of shape (n_samples,) or (n_samples, n_outputs)
    sample_weight : ndarray of shape (n_samples,)
        Positive.
    loss : Loss, Separable or Softmax
    free_bias : bool
    centre : ndarray of shape (n_features,)

    Returns
    -------
    units : Units
    y, sample_weight : ndarray
        In these units.
    loss : Loss, Separable or Softmax
        Of such targets.
    """
    weight = power_of_two(np.mean(sample_weight))
    sample_weight = sample_weight / weight
    scale = loss.scaled(y, sample_weight, free_bias)
    units = Units(
        data=power_of_two(root_mean_square(X)),
        output=scale.output,
        value=weight * scale.value,
        shift=np.atleast_1d(scale.shift),
        centre=centre,
    )
    return units, scale.y, sample_weight, scale.loss
