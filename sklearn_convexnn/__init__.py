"""ReLU networks trained to the global optimum, as scikit-learn estimators."""

from sklearn_convexnn._version import __version__
from sklearn_convexnn.certificates import Certificate, certify
from sklearn_convexnn.estimators import ConvexReLUClassifier, ConvexReLURegressor

__all__ = [
    "Certificate",
    "ConvexReLUClassifier",
    "ConvexReLURegressor",
    "__version__",
    "certify",
]
