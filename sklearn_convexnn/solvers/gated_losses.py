"""The smooth losses of several outputs on the namespace of their arrays.

Values, gradients and square roots of the second derivatives; what is needed now and
then only, dual values and best constants, is in `sklearn_convexnn.losses`.
"""

# As in `sklearn_convexnn.losses.Poisson`: the exponential is linear from here on.
_FARTHEST = 300.0

# Square roots of second derivatives that count as zero, relative to the largest.
_FLAT = 1e-3

# Bounds of the second derivatives; that of the Poisson loss has none.
_LARGEST = {
    "squared_error": 1.0,
    "huber": 1.0,
    "log_loss": 0.25,
    "squared_hinge": 2.0,
    "softmax": 0.5,
}


class GatedLoss:
    """A loss with its targets, as functions of outputs ``F``.

    Parameters
    ----------
    loss : Separable or Softmax
        Of a smooth loss.
    Y : array of shape (n_samples, n_outputs)
    sample_weight : array of shape (n_samples,)
    xp : namespace
        Of the arrays.

    Notes
    -----
    The second derivative of the loss in the outputs of one sample is ``S S^T``, where
    the factor ``S`` is a diagonal matrix but for the softmax.
    """

    def __init__(self, loss, Y, sample_weight, xp):
        self.Y, self.s, self.xp = Y, sample_weight[:, None], xp
        single = getattr(loss, "loss", None)
        name = "softmax" if single is None else single.name
        self.epsilon = getattr(single, "epsilon", None)
        self._terms = getattr(self, f"_{name}_terms")
        self._slopes = getattr(self, f"_{name}_slopes")
        self._curvature = None if single is None else getattr(self, f"_{name}_bends")
        self._largest = _LARGEST.get(name)

    def value(self, F):
        """Sum of the weighted losses, a float."""
        return float(self.xp.sum(self.s * self._terms(F)))

    def gradient(self, F):
        """Derivative of `value`, of the shape of `F`."""
        return self.s * self._slopes(F)

    def root(self, F):
        """Factor ``S`` of the second derivative at `F`, see `Root`."""
        xp = self.xp
        if self._curvature is None:
            return Root(xp, xp.sqrt(self.s), self._probabilities(F))
        return Root(xp, xp.sqrt(self.s * self._curvature(F)))

    def steepest(self, F):
        """Largest second derivative of the loss of a sample over its weight, a float.

        A bound of it everywhere where there is one, as that at `F` may be zero.
        """
        if self._largest is not None:
            return self._largest
        return float(self.xp.max(self._curvature(F)))

    def _squared_error_terms(self, F):
        return 0.5 * (F - self.Y) ** 2

    def _squared_error_slopes(self, F):
        return F - self.Y

    def _squared_error_bends(self, F):
        return self.xp.ones_like(F)

    def _huber_terms(self, F):
        r = self.xp.abs(F - self.Y)
        inner = self.xp.clip(r, max=self.epsilon)
        return inner * (r - 0.5 * inner)

    def _huber_slopes(self, F):
        return self.xp.clip(F - self.Y, -self.epsilon, self.epsilon)

    def _huber_bends(self, F):
        return self.xp.astype(self.xp.abs(F - self.Y) <= self.epsilon, F.dtype)

    def _poisson_terms(self, F):
        xp, Y = self.xp, self.Y
        mean = xp.exp(xp.clip(F, max=_FARTHEST))
        beyond = mean * xp.clip(F - _FARTHEST, min=0.0)
        positive = xp.where(Y > 0, Y, xp.ones_like(Y))
        constant = Y * xp.log(positive) - Y
        return mean + beyond - Y * F + constant

    def _poisson_slopes(self, F):
        return self.xp.exp(self.xp.clip(F, max=_FARTHEST)) - self.Y

    def _poisson_bends(self, F):
        xp = self.xp
        return xp.exp(xp.clip(F, max=_FARTHEST)) * xp.astype(F <= _FARTHEST, F.dtype)

    def _log_loss_terms(self, F):
        return self.xp.logaddexp(self.xp.zeros_like(F), -self.Y * F)

    def _log_loss_slopes(self, F):
        return -self.Y * self._expit(-self.Y * F)

    def _log_loss_bends(self, F):
        p = self._expit(F)
        return p * (1.0 - p)

    def _expit(self, t):
        e = self.xp.exp(-self.xp.abs(t))
        return self.xp.where(t >= 0, 1.0 / (1.0 + e), e / (1.0 + e))

    def _squared_hinge_terms(self, F):
        return self.xp.clip(1.0 - self.Y * F, min=0.0) ** 2

    def _squared_hinge_slopes(self, F):
        return -2.0 * self.Y * self.xp.clip(1.0 - self.Y * F, min=0.0)

    def _squared_hinge_bends(self, F):
        return 2.0 * self.xp.astype(self.Y * F < 1.0, F.dtype)

    def _softmax_terms(self, F):
        xp = self.xp
        shifted = F - xp.max(F, axis=1, keepdims=True)
        total = xp.log(xp.sum(xp.exp(shifted), axis=1, keepdims=True))
        return self.Y * (total - shifted)

    def _softmax_slopes(self, F):
        return self._probabilities(F) - self.Y

    def _probabilities(self, F):
        xp = self.xp
        E = xp.exp(F - xp.max(F, axis=1, keepdims=True))
        return E / xp.sum(E, axis=1, keepdims=True)


class Root:
    """Factor ``S`` of the second derivatives ``S S^T`` of a loss.

    For the softmax with probabilities ``p`` it is ``diag(sqrt p) - p sqrt(p)^T``.

    Parameters
    ----------
    xp : namespace
    scale : array of shape (n_samples, 1) or (n_samples, n_outputs)
        The factor, or what it is multiplied with.
    probabilities : array of shape (n_samples, n_outputs) or None
    """

    def __init__(self, xp, scale, probabilities=None):
        self.xp, self.scale, self.p = xp, scale, probabilities
        self.q = None if probabilities is None else xp.sqrt(probabilities)

    def times(self, x):
        """``S x``, sample by sample."""
        if self.p is not None:
            x = self.q * x - self.p * self.xp.sum(self.q * x, axis=1, keepdims=True)
        return self.scale * x

    def transposed(self, x):
        """``S^T x``, sample by sample."""
        if self.p is not None:
            x = self.q * (x - self.xp.sum(self.p * x, axis=1, keepdims=True))
        return self.scale * x

    def solution(self, x, rough):
        """``F`` with ``S^T F = x``, from `rough` where that hardly determines it."""
        xp, scale = self.xp, self.scale
        if self.p is not None:
            # Constants of a sample do not matter, but should be one for all entries.
            scale, rest = scale * self.q, xp.sum(self.p * rough, axis=1, keepdims=True)
        # Nowhere, if the loss is linear at all samples.
        steep = (scale >= _FLAT * xp.max(scale)) & (scale > 0)
        F = x / xp.where(steep, scale, xp.ones_like(scale))
        return xp.where(steep, F if self.p is None else F + rest, rough)
