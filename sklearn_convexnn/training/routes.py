"""The routes from data to the network of one output, with its certificate."""

from contextlib import suppress
from time import perf_counter

from sklearn.utils import check_random_state

from sklearn_convexnn._utils.breakdown import unless_broken
from sklearn_convexnn._utils.deadlines import OutOfTime
from sklearn_convexnn.families.two_layer.closed_forms import closed_form
from sklearn_convexnn.families.two_layer.given import TwoLayerPatterns
from sklearn_convexnn.families.two_layer.recovery import simplify
from sklearn_convexnn.families.two_layer.slope_bounds import norm_bound, triangle_bound
from sklearn_convexnn.model.results import DualPoint
from sklearn_convexnn.patterns.arrangements import has_few_patterns
from sklearn_convexnn.training.cutting_planes import cutting_planes
from sklearn_convexnn.training.given_patterns import train_on_patterns
from sklearn_convexnn.training.proving import generate_and_prove, node_limit, prove
from sklearn_convexnn.training.trained import (
    CUTS,
    Trained,
    null_training,
    round_printer,
    trained_at_once,
)

# Up to so many patterns the program over all of them is the simplest way.
_FEW_PATTERNS = 100


def train(problem, known, seed, deadline, name, settings, task=None, duals=()):
    """Train the network of one output.

    Parameters
    ----------
    problem : Problem
    known : Neurons or None
        Neurons of an earlier fit.
    seed : int
    deadline : float
    name : str
        What the lines of `verbose` call this output.
    settings : Settings
    task : FitTask or None
        Whose subtasks the rounds of column generation or cutting planes are.
    duals : sequence of DualPoint
        Dual points that are known.

    Returns
    -------
    trained : Trained
        Without neurons if a computation breaks down before there is anything better.
    """
    args = problem, known, seed, deadline, name, settings, task, duals
    trained = unless_broken(None, _train, *args)
    return null_training(problem, settings) if trained is None else trained


def _train(problem, known, seed, deadline, name, settings, task, duals):
    wanted = settings.arrangements
    if wanted in CUTS:
        return _train_by_cuts(problem, known, seed, deadline, name, settings, task)
    if wanted != "sampled":
        # Other methods need no structure.
        trained = None
        with suppress(OutOfTime):
            trained = unless_broken(
                None, _train_by_structure, problem, deadline, name, settings
            )
        if trained is not None:
            return trained
    free_bias = problem.fit_intercept
    few = wanted == "adaptive" and unless_broken(
        False, has_few_patterns, problem.X, _FEW_PATTERNS, free_bias=free_bias
    )
    # Dual points come from an earlier fit to more patterns than a few.
    if wanted == "adaptive" and (duals or not few):
        return _train_adaptively(
            problem, known, seed, deadline, name, settings, task, duals
        )
    family = TwoLayerPatterns(problem)
    return train_on_patterns(family, known, seed, deadline, name, settings)


def _train_by_structure(problem, deadline, name, settings):
    start = perf_counter()
    form = closed_form(
        problem.X,
        problem.y,
        problem.sample_weight,
        problem.loss,
        problem.alpha,
        fit_intercept=problem.fit_intercept,
        negative_slope=problem.negative_slope,
        tol=0.9 * settings.tol,
        max_iter=settings.max_iter,
        deadline=deadline,
    )
    if form is None:
        return None
    if settings.verbose:
        print(
            f"[{name}] solved by structure: {len(form.neurons)} neurons, objective "
            f"{settings.units.objective(form.objective):.8g}, dual bound "
            f"{settings.units.objective(form.dual_bound):.8g}"
        )
    return trained_at_once(
        problem,
        form.neurons,
        form.dual_bound,
        seconds=perf_counter() - start,
        status=form.status,
        certificate="global",
        n_iter=form.n_iter,
        n_patterns=len(form.neurons),
    )


def _train_adaptively(problem, known, seed, deadline, name, settings, task, duals):
    # A proof that takes longer than the fit is for those who ask for it.
    nodes = node_limit(problem.X, brief=True) if settings.prove else 0
    result, proof = generate_and_prove(
        problem,
        check_random_state(seed),
        known=known,
        duals=duals,
        tol=settings.tol,
        max_iter=settings.max_iter,
        deadline=deadline,
        callback=round_printer(name, settings),
        # The optimum never needs more than one for each sample.
        n_neurons=min(settings.n_arrangements, max(2 * len(problem.y), 100)),
        max_neurons=settings.max_neurons,
        task=task,
        prove=lambda *args: prove(*args, nodes=nodes),
    )
    proven = proof is not None and proof.closed
    kappa = proof.kappa if proven else result.kappa
    return Trained.of(
        result,
        neurons=unless_broken(result.neurons, simplify, problem, result.neurons),
        dual_bound=proof.dual_bound if proven else result.dual_bound,
        certificate="global" if proven else "estimated",
        dual=DualPoint(result.nu, kappa, proven),
    )


def _train_by_cuts(problem, known, seed, deadline, name, settings, task):
    pricing = settings.pricing
    result = cutting_planes(
        problem,
        check_random_state(seed),
        cuts=CUTS[settings.arrangements],
        pricing=pricing,
        known=known,
        # A little room for the rounding of the weights.
        tol=0.9 * settings.tol,
        max_iter=settings.max_iter,
        max_neurons=settings.max_neurons,
        deadline=deadline,
        callback=round_printer(name, settings),
        task=task,
    )
    kinds = {"search": "estimated", "nonnegative": "restricted"}
    certificate, bound = kinds.get(pricing, "global"), result.dual_bound
    if certificate == "restricted":
        # On some data, such as orthonormal samples, no other neuron is steeper.
        geometry = {
            "free_bias": problem.fit_intercept,
            "negative_slope": problem.negative_slope,
        }
        with suppress(OutOfTime):
            outer = min(
                slope(problem.X, result.nu, **geometry)
                for slope in (norm_bound, triangle_bound)
            )
            proven = problem.bound(result.nu, max(outer, result.kappa))
            if proven >= (1.0 - settings.tol) * result.objective:
                certificate, bound = "global", proven
    return Trained.of(
        result, neurons=result.neurons, dual_bound=bound, certificate=certificate
    )
