"""Words for the type annotations of public functions."""

from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike
from scipy.sparse import sparray, spmatrix

Data: TypeAlias = ArrayLike | sparray | spmatrix
"""What an estimator takes as `X`."""

Seed: TypeAlias = int | np.random.RandomState | None
"""What scikit-learn takes as `random_state`."""
