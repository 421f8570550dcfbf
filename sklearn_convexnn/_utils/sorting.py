"""Rows in order."""

import numpy as np


def distinct_rows(columns):
    """Order of the rows of a table, column by column, and which of them are equal.

    As ``np.unique`` with ``axis=0``, but only rows that earlier columns do not tell
    apart are looked at, which is faster by a factor of ten to hundreds.

    Parameters
    ----------
    columns : sequence of ndarray of shape (n_rows,)
        Of the table, without missing values.

    Returns
    -------
    first : ndarray of shape (n_distinct,)
        The first row of each kind, in order.
    group : ndarray of shape (n_rows,)
        The kind of each row.
    """
    n = len(columns[0])
    order, start = np.arange(n), np.zeros(n, dtype=int)
    # Positions, in the order so far, of rows that are not alone; `start` is where the
    # rows that are equal so far begin.
    tied = np.arange(n if n > 1 else 0)
    for column in columns:
        if len(tied) == 0:
            break
        values = column[order[tied]]
        if np.all(values == values[0]):
            continue
        by_value = np.lexsort((values, start[tied]))
        values = values[by_value]
        order[tied] = order[tied[by_value]]
        new = np.empty(len(tied), dtype=bool)
        new[0] = True
        new[1:] = (values[1:] != values[:-1]) | (start[tied[1:]] != start[tied[:-1]])
        begin = np.flatnonzero(new)
        lengths = np.diff(np.append(begin, len(tied)))
        start[tied] = np.repeat(tied[begin], lengths)
        tied = tied[np.repeat(lengths > 1, lengths)]
    begins = start == np.arange(n)
    group = np.empty(n, dtype=int)
    group[order] = np.cumsum(begins) - 1
    return order[begins], group
