"""Units of several features, one for each window, and their output weights."""


def dense(outputs, n_windows):
    """Output weights of units as a matrix that features are multiplied with.

    Parameters
    ----------
    outputs : ndarray of shape (n_units, n_windows * n_outputs)
    n_windows : int

    Returns
    -------
    matrix : ndarray of shape (n_windows * n_units, n_outputs)
    """
    if n_windows == 1:
        return outputs
    parts = outputs.reshape(len(outputs), n_windows, outputs.shape[1] // n_windows)
    return parts.transpose(1, 0, 2).reshape(n_windows * len(outputs), parts.shape[2])


def grouped(matrix, n_windows):
    """The inverse of `dense`.

    Parameters
    ----------
    matrix : ndarray of shape (n_windows * n_units, n_outputs)
    n_windows : int

    Returns
    -------
    outputs : ndarray of shape (n_units, n_windows * n_outputs)
    """
    if n_windows == 1:
        return matrix
    parts = matrix.reshape(n_windows, len(matrix) // n_windows, matrix.shape[1])
    n_units, width = parts.shape[1], n_windows * matrix.shape[1]
    return parts.transpose(1, 0, 2).reshape(n_units, width)


def below_each_other(Z, n_windows):
    """Features of a unit below each other.

    Parameters
    ----------
    Z : ndarray of shape (n_samples, n_windows * n_units)
    n_windows : int

    Returns
    -------
    column : ndarray of shape (n_windows * n_samples, n_units)
    """
    if n_windows == 1:
        return Z
    n_units = Z.shape[1] // n_windows
    return Z.reshape(n_windows * len(Z), n_units)


def sums(outputs, n_outputs):
    """Output weights added over the features of a unit: what a constant one adds.

    Parameters
    ----------
    outputs : ndarray of shape (n_units, n_windows * n_outputs)
    n_outputs : int

    Returns
    -------
    sums : ndarray of shape (n_units, n_outputs)
    """
    n_windows = outputs.shape[1] // n_outputs
    return outputs.reshape(len(outputs), n_windows, n_outputs).sum(axis=1)
