"""What to do about fits that have stopped short of their tolerance."""

_REMEDIES = {
    "breakdown": "scale the columns of X, look for outliers, merge samples that are "
    "equal up to rounding",
    "stalled": "scale the data, use double precision, merge samples that are "
    "equal up to rounding",
    "max_neurons": "increase max_neurons",
    "callback": "let it go on",
    "loose": "use pricing='exact'",
    "open": "use arrangements='adaptive' for an estimate",
    "unproven": "use pricing='search' for an estimate",
    "max_iter": "increase max_iter",
    "max_time": "increase max_time",
    "unconfirmed": "increase max_time",
}


def advice(statuses, columns_apart=False):
    """A sentence that names what would help, by how the fits have ended.

    Parameters
    ----------
    statuses : collection of str
        `Trained.status` of the networks.
    columns_apart : bool, default=False
        Whether the scales of the columns of the data are far apart.

    Returns
    -------
    sentence : str
    """
    remedies = [text for status, text in _REMEDIES.items() if status in statuses]
    remedies = list(dict.fromkeys(remedies))
    if columns_apart:
        # What the others are for rarely helps then.
        remedies = [
            "scale the columns of X, for example with "
            "sklearn.preprocessing.StandardScaler"
        ]
    elif not remedies and "unseen" not in statuses:
        # The gap was closed until the weights were rounded.
        remedies = ["use data in double precision, centred and scaled"]
    sentence = ", or ".join([*remedies, "loosen tol"])
    return sentence[0].upper() + sentence[1:] + "."
