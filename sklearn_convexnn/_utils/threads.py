"""Number of BLAS threads."""

import os
from contextlib import contextmanager, nullcontext
from functools import lru_cache
from threading import Lock, get_ident

from threadpoolctl import ThreadpoolController

_SMALL = 1000


@lru_cache(maxsize=1)
def _pools():
    """Pools of the process, and those of which each thread has its own limit."""
    pools = ThreadpoolController().select(user_api="blas").lib_controllers
    own = [pool for pool in pools if _layer(pool) == "openmp"]
    return [pool for pool in pools if _layer(pool) != "openmp"], own


def _layer(pool):
    return getattr(pool, "threading_layer", None)


def _set(pool, n_threads):
    # The public method does nothing while another thread is the one to set limits,
    # and the last to leave need not be the first that came.
    getattr(pool, "_real_set_num_threads", pool.set_num_threads)(n_threads)


def _limited(pools):
    """Limit the pools; those that changed, with the numbers before."""
    before = [(pool, pool.get_num_threads() or 1) for pool in pools]
    changed = [(pool, n_threads) for pool, n_threads in before if n_threads > 1]
    for pool, _ in changed:
        _set(pool, 1)
    return changed


def _restore(changed):
    for pool, n_threads in changed:
        # Others may have set a limit meanwhile, which is theirs.
        if pool.get_num_threads() == 1:
            _set(pool, n_threads)


class _SharedLimit:
    """One BLAS thread for the whole process while anybody holds it.

    Most pools belong to the process, and so do their limits.  The first holder saves
    and sets these, and the last one puts them back, in whatever order they come and
    go, from any thread.
    """

    def __init__(self):
        # The thread of each holder.
        self._lock, self._holders, self._changed = Lock(), {}, []
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(
                before=self._lock.acquire,
                after_in_parent=self._lock.release,
                after_in_child=self._after_fork,
            )

    @contextmanager
    def hold(self):
        holder, (shared, own) = object(), _pools()
        with self._lock:
            if not self._holders:
                self._changed = _limited(shared)
            self._holders[holder] = get_ident()
        changed = _limited(own)
        try:
            yield
        finally:
            _restore(changed)
            with self._lock:
                del self._holders[holder]
                self._restore_unless_held()

    def _restore_unless_held(self):
        if not self._holders:
            _restore(self._changed)
            self._changed = []

    def _after_fork(self):
        # Of the threads, a forked process has the one that forked.
        me = get_ident()
        self._holders = {
            holder: thread for holder, thread in self._holders.items() if thread == me
        }
        self._restore_unless_held()
        self._lock.release()


_SINGLE = _SharedLimit()


def blas_threads_for(size):
    """Context with one BLAS thread if matrices of `size` rows are small.

    NumPy and SciPy each come with a BLAS and a pool of threads.  Small
    products of both in turn are faster on one thread, by a factor of two with
    idle cores and by much more when the cores are busy.  Limits are those of the
    process, so that other fits at the same time have them as well.

    Parameters
    ----------
    size : int
        Order of the largest matrix that is factored.

    Returns
    -------
    context : context manager
    """
    return _SINGLE.hold() if size < _SMALL else nullcontext()
