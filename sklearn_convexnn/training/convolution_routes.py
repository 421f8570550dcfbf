"""The route from data to a convolutional network, with its certificate."""

from sklearn.utils import check_random_state

from sklearn_convexnn._utils.breakdown import unless_broken
from sklearn_convexnn.families.simplify import simplify
from sklearn_convexnn.model.results import DualPoint
from sklearn_convexnn.training.column_generation import generate_neurons
from sklearn_convexnn.training.trained import Trained, null_training, round_printer


def train_convolution(problem, known, settings, task=None, duals=()):
    """Train a two-layer convolutional network.

    Parameters
    ----------
    problem, known, settings, task, duals
        As of `Settings.method`.

    Returns
    -------
    trained : Trained
        Without filters if a computation breaks down before there is anything better.
    """
    args = problem, known, settings, task, duals
    trained = unless_broken(None, _train, *args)
    return null_training(problem, settings) if trained is None else trained


def _train(problem, known, settings, task, duals):
    result = generate_neurons(
        problem,
        check_random_state(settings.seed),
        settings.limits,
        n_neurons=min(settings.n_arrangements, max(2 * problem.Y.size, 100)),
        known=known,
        duals=duals,
        callback=round_printer(settings),
        task=task,
    )
    return Trained.of(
        result,
        neurons=unless_broken(result.neurons, simplify, problem, result.neurons),
        dual_bound=result.dual_bound,
        certificate="estimated",
        dual=DualPoint(result.nu, result.kappa),
    )
