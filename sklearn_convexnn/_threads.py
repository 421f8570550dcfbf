"""Number of BLAS threads."""

from contextlib import nullcontext
from functools import lru_cache

from threadpoolctl import ThreadpoolController

_SMALL = 1000


@lru_cache(maxsize=1)
def _pools():
    return ThreadpoolController()


def blas_threads_for(size):
    """Context with one BLAS thread if matrices of `size` rows are small.

    NumPy and SciPy each come with a BLAS and a pool of threads.  Small
    products of both in turn are faster on one thread, by a factor of two with
    idle cores and by much more when the cores are busy.

    Parameters
    ----------
    size : int
        Order of the largest matrix that is factored.

    Returns
    -------
    context : context manager
    """
    return _pools().limit(limits=1) if size < _SMALL else nullcontext()
