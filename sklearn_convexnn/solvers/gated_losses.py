"""The smooth losses of several outputs on the namespace of their arrays.

Values, gradients and square roots of the second derivatives.
"""

from sklearn_convexnn.losses import Separable

# Square roots of second derivatives that count as zero, relative to the largest.
_FLAT = 1e-3


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
        self.shared = not isinstance(loss, Separable)
        self.loss = loss if self.shared else loss.loss

    def value(self, F):
        """Sum of the weighted losses, a float."""
        return float(self.xp.sum(self.s * self.loss.terms(F, self.Y, self.xp)))

    def gradient(self, F):
        """Derivative of `value`, of the shape of `F`."""
        return self.s * self.loss.slopes(F, self.Y, self.xp)

    def root(self, F):
        """Factor ``S`` of the second derivative at `F`, see `Root`."""
        xp = self.xp
        if self.shared:
            return Root(xp, xp.sqrt(self.s), self.loss.probabilities(F, xp))
        return Root(xp, xp.sqrt(self.s * self.loss.bends(F, self.Y, xp)))

    def steepest(self, F):
        """Largest second derivative of the loss of a sample over its weight, a float.

        A bound of it everywhere where there is one, as that at `F` may be zero.
        """
        if self.loss.largest_bend is not None:
            return self.loss.largest_bend
        return float(self.xp.max(self.loss.bends(F, self.Y, self.xp)))


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
