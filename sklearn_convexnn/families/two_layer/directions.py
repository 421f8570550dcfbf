"""Directions of neurons, with the bias as one more coordinate if it is free."""

import numpy as np

from sklearn_convexnn._utils.deadlines import fits


class Directions:
    """What slopes of one output and of several have in common.

    These have attributes `rank` and `free_bias` and, for climbing, `rows` that are
    worth a start, whether the slope is `even`, and methods `values`, `gradients` and
    `best_biases`.
    """

    def lift(self, U, pivots):
        """Directions ``w`` on hyperplanes through pivots, from their ``u``."""
        if not self.free_bias:
            return U
        return np.concatenate([U, -(U * pivots).sum(-1, keepdims=True)], axis=-1)

    def neuron(self, w):
        """Unit direction and bias."""
        w = w / np.linalg.norm(w[: self.rank])
        return w[: self.rank], float(w[-1]) if self.free_bias else 0.0

    def starts(self, n_starts=32):
        """Rows and fixed random directions, and their opposites if these differ."""
        rows = self.rows[:, : self.rank]
        lengths = np.linalg.norm(rows, axis=1)
        rows = rows[np.argsort(-lengths)[: n_starts // 2]]
        rows = rows[np.any(rows != 0, axis=1)]
        rng = np.random.default_rng(0)
        others = rng.standard_normal((n_starts - len(rows), self.rank))
        U = np.concatenate([rows, others])
        U /= np.linalg.norm(U, axis=1, keepdims=True)
        return U if self.even else np.concatenate([U, -U])

    def ascend(self, U, step=1.0, n_steps=50):
        """Gradient steps on the sphere, each start with a step of its own."""
        W = self.best_biases(U)
        slopes = self.gradients(W)
        # Slopes are homogeneous: their values follow from the gradients.
        values, steps = (slopes * U).sum(axis=1), np.full(len(W), step)
        for _ in range(n_steps):
            if steps.max() < 1e-8 or not fits():
                break
            slopes /= np.maximum(np.linalg.norm(slopes, axis=1, keepdims=True), 1e-300)
            U = W[:, : self.rank] + steps[:, None] * slopes
            U /= np.maximum(np.linalg.norm(U, axis=1, keepdims=True), 1e-300)
            moved = self.best_biases(U)
            onward = self.gradients(moved)
            new = (onward * U).sum(axis=1)
            better = new > values
            W = np.where(better[:, None], moved, W)
            slopes = np.where(better[:, None], onward, slopes)
            values = np.maximum(new, values)
            steps = np.where(better, 1.5, 0.4) * steps
        return W
