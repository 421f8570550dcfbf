"""Branch and bound over cones of directions."""

from itertools import product

import numpy as np

# Numbers in the largest array that the cones of one round need.
_ROUND_SIZE = 100_000
# Cones are not split below this angle.
_RESOLUTION = 1e-7


class Cones:
    """Nodes of the search that are cones, given by their unit generators.

    Parameters
    ----------
    slope : SignedSlope or NormSlope
        Has bounds of the slope over cones.
    n_rows : int
        Of the data, from which follows how many cones are bounded at once.
    """

    def __init__(self, slope, n_rows):
        self.slope = slope
        self.size = int(np.clip(_ROUND_SIZE // (slope.rank * n_rows), 16, 1024))

    def roots(self):
        """All orthants, or half of them, on each pivot."""
        slope, r = self.slope, self.slope.rank
        orthants = np.array(
            [np.diag(signs) for signs in product([1.0, -1.0], repeat=r)]
        )
        if slope.even:
            orthants = orthants[: len(orthants) // 2]
        pivots = slope.pivots()[:, None, None]
        U = np.broadcast_to(orthants, (len(pivots), *orthants.shape))
        V = slope.lift(U, pivots)
        return V.reshape(-1, *V.shape[2:])

    def examine(self, V, threshold):
        """Bounds, the edges where to split, -1 if too short, and the centres.

        The centres cost so little that they do not depend on the threshold.
        """
        U = V[..., : self.slope.rank]
        gram = U @ U.transpose(0, 2, 1)
        # Of edges equally long, as in orthants, one far from the other generators.
        closeness = gram.sum(axis=2)
        closeness = gram + 1e-9 * (closeness[:, :, None] + closeness[:, None, :])
        longest = closeness.reshape(len(V), -1).argmin(axis=1)
        tiny = gram.min(axis=(1, 2)) > 1.0 - 0.5 * _RESOLUTION**2
        longest[tiny] = -1
        return self.slope.cone_bounds(V, gram), longest, V.sum(axis=1)

    def split(self, V, edges):
        """Both halves of each cone, split in the middle of the edge."""
        index, (i, j) = np.arange(len(V)), np.divmod(edges, self.slope.rank)
        middle = V[index, i] + V[index, j]
        middle /= np.linalg.norm(middle[:, : self.slope.rank], axis=1, keepdims=True)
        V = np.repeat(V, 2, axis=0)
        V[2 * index, i] = middle
        V[2 * index + 1, j] = middle
        return V
