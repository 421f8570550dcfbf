"""What is private of scikit-learn, and the tasks of a fit for its callbacks.

All of it is imported here, so that a change of scikit-learn is met in one place.
"""

from contextlib import contextmanager

import numpy as np
from sklearn.base import _fit_context as fit_context
from sklearn.callback import CallbackSupportMixin
from sklearn.utils import _safe_indexing as safe_indexing
from sklearn.utils._array_api import (
    _convert_to_numpy as convert_to_numpy,
    _expit as expit_of,
    _is_numpy_namespace as is_numpy_namespace,
    _max_precision_float_dtype as max_precision_float_dtype,
    check_same_namespace,
    device,
    get_namespace,
)
from sklearn.utils._param_validation import (
    Interval,
    StrOptions,
    validate_parameter_constraints as check_parameters,
)
from sklearn.utils.metadata_routing import (
    _raise_for_params as raise_for_params,
    _routing_enabled as routing_enabled,
)
from sklearn.utils.validation import (
    _check_feature_names as check_feature_names,
    _check_sample_weight as check_sample_weight,
)

__all__ = [
    "CallbackSupportMixin",
    "FitTask",
    "Interval",
    "StrOptions",
    "check_feature_names",
    "check_parameters",
    "check_same_namespace",
    "check_sample_weight",
    "convert_to_numpy",
    "device",
    "expit_of",
    "fit_context",
    "fit_task",
    "get_namespace",
    "is_numpy_namespace",
    "max_precision_float_dtype",
    "raise_for_params",
    "routing_enabled",
    "safe_indexing",
]


class FitTask:
    """A task of a fit that callbacks are told of; nothing without callbacks.

    Parameters
    ----------
    estimator : estimator or None
    context : CallbackContext or None
        Of the task.  None if nobody is to be told.
    data : dict or None
        What callbacks may ask for: 'X', 'y' and 'metadata'.
    describe : callable or None
        Turns the state that is given to `end` into a dict of the attributes
        with which the estimator could predict, or None.
    """

    def __init__(self, estimator=None, context=None, data=None, describe=None):
        self._estimator, self._context = estimator, context
        self._data, self._describe = data, describe

    def subtask(self, name, number=None, max_subtasks=0):
        """A task within this one.

        Parameters
        ----------
        name : str
        number : int or None
            Given if the subtasks are not one after the other.
        max_subtasks : int or None
            Most tasks that it can have within; None if nobody knows.

        Returns
        -------
        task : FitTask
        """
        if self._context is None:
            return self
        context = self._context.subcontext(name, number, max_subtasks)
        return FitTask(self._estimator, context, self._data, self._describe)

    @contextmanager
    def within(self, name, number=None):
        """Context that is a task within this one, without tasks of its own.

        Parameters
        ----------
        name, number
            As of `subtask`.
        """
        task = self.subtask(name, number).begin()
        yield
        task.end()

    def through(self, function):
        """The same task, with `function` applied to states before all else.

        Parameters
        ----------
        function : callable

        Returns
        -------
        task : FitTask
        """
        then = self._describe

        def describe(state):
            return function(state) if then is None else then(function(state))

        return FitTask(self._estimator, self._context, self._data, describe)

    def begin(self):
        """Tell the callbacks that the task begins.

        Returns
        -------
        self : FitTask
        """
        if self._context is not None:
            self._context.call_on_fit_task_begin(
                estimator=self._estimator, **self._data
            )
        return self

    def end(self, state=None):
        """Tell the callbacks that the task has ended.

        Parameters
        ----------
        state : object or None
            What the estimator could be made of; described only if a callback
            asks for it.

        Returns
        -------
        stop : bool
            Whether a callback asks not to go on with further tasks.
        """
        if self._context is None:
            return False

        def attributes():
            return state if self._describe is None else self._describe(state)

        return self._context.call_on_fit_task_end(
            estimator=self._estimator,
            reconstruction_attributes=None if state is None else attributes,
            **self._data,
        )


def fit_task(estimator, data, max_subtasks, *, sequential=True):
    """The task that is the whole fit of an estimator.

    Parameters
    ----------
    estimator : estimator
    data : tuple (X, y, sample_weight)
        As the estimator was given them.
    max_subtasks : int or None
        Most tasks that it can have within; None if nobody knows.
    sequential : bool, default=True
        Whether these are one after the other.

    Returns
    -------
    task : FitTask
    """
    # Also without callbacks: those of a search or a pipeline may look at it.
    context = estimator._init_callback_context(
        max_subtasks=max_subtasks, sequential_subtasks=sequential
    )
    if not getattr(estimator, "_skl_callbacks", None):
        return FitTask()
    X, y, sample_weight = data
    weighted = np.ptp(sample_weight) > 0
    metadata = {"sample_weight": sample_weight} if weighted else None
    return FitTask(estimator, context, {"X": X, "y": y, "metadata": metadata})
