"""One time limit, for the fit as a whole, that reaches into every loop.

Whoever has something to keep sets the limit by `until` and catches `OutOfTime`.  What
is called in between only says, by `check`, where it can be interrupted and how long it
will be before it can be interrupted again.
"""

from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from time import perf_counter, process_time

import numpy as np

COPIES = 1000.0
"""Operations that go by while an entry of the data is copied, a few times."""
_end = ContextVar("end", default=np.inf)
# How many times faster than the processor products of matrices are.
_times_faster = ContextVar("times_faster", default=1.0)
# Times of the clock and of the processor when the outermost limit was set.
_begin = ContextVar("begin", default=None)
# Rows and columns of the matrices whose product tells how fast the processor is.
_SIZE = 256
# Seconds in which nothing can be said of the processor, and its least part.
_SHORT, _LEAST = 0.1, 0.1


class OutOfTime(Exception):
    """What is being done would take longer than there is time."""


@contextmanager
def until(deadline):
    """Context in which `check` raises `OutOfTime` after `deadline`.

    Within another one the earlier deadline counts.

    Parameters
    ----------
    deadline : float
        Value of ``time.perf_counter()``.
    """
    begin = _begin.get() or (perf_counter(), process_time())
    tokens = _end.set(min(deadline, _end.get())), _begin.set(begin)
    try:
        yield
    finally:
        _end.reset(tokens[0])
        _begin.reset(tokens[1])


def check(operations=0.0):
    """Raise `OutOfTime` if the time is up, or too short for what comes next.

    Parameters
    ----------
    operations : float, default=0.0
        Floating-point operations until the next check, as of a product of matrices
        in double precision.
    """
    if not fits(operations):
        raise OutOfTime


def fits(operations=0.0, share=1.0):
    """Whether there is time for so many operations.

    Parameters
    ----------
    operations : float, default=0.0
        As of `check`.
    share : float, default=1.0
        Part of the time left that they may take.

    Returns
    -------
    fits : bool
    """
    end = _end.get()
    if end == np.inf:
        return True
    now = perf_counter()
    left = end - now
    if left <= 0 or operations == 0:
        return left > 0
    return operations <= share * left * _speed() * _processor(now)


def left():
    """Seconds until the time is up.

    Returns
    -------
    seconds : float
    """
    return _end.get() - perf_counter()


def after(share):
    """The time, as of `until`, at which a share of what is left is over."""
    return perf_counter() + share * left()


def seconds(operations):
    """About how long so many operations, as of `check`, take."""
    return operations / _speed()


def svd_work(shape):
    """Operations, as of `check`, that a thin singular value decomposition is worth.

    Parameters
    ----------
    shape : tuple of int

    Returns
    -------
    operations : float
    """
    # Half of it are products of matrices and vectors.
    return 20.0 * max(shape) * min(shape) ** 2


def row_space_work(shape):
    """Operations, as of `check`, that `row_space` is worth.

    Parameters
    ----------
    shape : tuple of int

    Returns
    -------
    operations : float
    """
    return 10.0 * max(shape) * min(shape) ** 2


def _processor(now):
    """The part of the time in which there was a processor for us, at most one."""
    start, busy = _begin.get()
    if now - start < _SHORT:
        return 1.0
    return min(max((process_time() - busy) / (now - start), _LEAST), 1.0)


@contextmanager
def at_speed_of(product, size):
    """Context in which operations take as long as on another device.

    Parameters
    ----------
    product : callable or None
        Multiplies two matrices there, and waits for the result; None is for those of
        NumPy.
    size : int
        Rows and columns of the matrices.
    """
    factor = 1.0 if product is None else _of_products(product, size) / _of_numpy()
    token = _times_faster.set(max(factor, 1.0))
    try:
        yield
    finally:
        _times_faster.reset(token)


def _speed():
    """Operations in a second, half of what a product of matrices reaches."""
    return _of_numpy() * _times_faster.get()


@lru_cache(maxsize=1)
def _of_numpy():
    matrix = np.ones((_SIZE, _SIZE))
    return _of_products(lambda: matrix @ matrix, _SIZE)


def _of_products(product, size):
    times = []
    for _ in range(3):
        start = perf_counter()
        product()
        times.append(perf_counter() - start)
    # What else runs makes some slower; none is faster than the processor.
    return size**3 / max(min(times), 1e-9)
