"""The losses on arrays of any namespace, for first-order methods."""


def dual_slope(loss, nu, y, s, xp):
    """`Loss.dual_slope` and `Loss.dual_curvature` by the functions of `xp`.

    Parameters
    ----------
    loss : Loss
    nu, y, s : array of shape (n_samples,)
    xp : module
        Their array namespace.

    Returns
    -------
    slope, curvature : array of shape (n_samples,)
    """
    if loss.name in ("squared_error", "huber"):
        return y - nu / s, 1.0 / s
    if loss.name == "squared_hinge":
        return y - 0.5 * nu / s, 0.5 / s
    if loss.name in ("hinge", "quantile"):
        return y, xp.zeros_like(y)
    if loss.name == "log_loss":
        t = y * nu / s
        return y * (xp.log1p(-t) - xp.log(t)), 1.0 / (s * t * (1.0 - t))
    if loss.name == "poisson":
        mean = y - nu / s
        return xp.log(mean), 1.0 / (s * mean)
    raise _missing(loss)


def terms_and_slopes(loss, f, y, s, xp):
    """Terms of a smooth loss and their derivatives, by the functions of `xp`.

    Parameters
    ----------
    loss : Loss
    f, y, s : array of shape (n_samples,)
    xp : module
        Their array namespace.

    Returns
    -------
    terms : array of shape (n_samples,)
        Up to a constant.
    slopes : array of shape (n_samples,)
    """
    if loss.name == "squared_error":
        return 0.5 * s * (f - y) ** 2, s * (f - y)
    if loss.name == "huber":
        inner = xp.clip(f - y, -loss.epsilon, loss.epsilon)
        return s * inner * (f - y - 0.5 * inner), s * inner
    if loss.name == "squared_hinge":
        margin = xp.clip(1.0 - y * f, min=0.0)
        return s * margin**2, -2.0 * s * y * margin
    if loss.name == "log_loss":
        below = xp.exp(-xp.abs(f))
        terms = xp.clip(-y * f, min=0.0) + xp.log1p(below)
        wrong = xp.where(y * f > 0, below, xp.ones_like(f)) / (1.0 + below)
        return s * terms, -s * y * wrong
    if loss.name == "poisson":
        # Beyond, where no optimum is, the exponential would overflow in float32.
        mean = xp.exp(xp.clip(f, max=80.0))
        return s * (mean * (1.0 + xp.clip(f - 80.0, min=0.0)) - y * f), s * (mean - y)
    raise _missing(loss)


def _missing(loss):
    return ValueError(
        f"loss={loss.name!r} has no first-order method here; use "
        "solver='interior_point'."
    )
