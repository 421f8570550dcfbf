"""ReLU networks trained to the global optimum, as scikit-learn estimators."""

from sklearn_convexnn._alpha_max import AlphaMax, alpha_max
from sklearn_convexnn._cutting_planes import cutting_planes
from sklearn_convexnn._smallest_network import smallest_network
from sklearn_convexnn._verification import Verification
from sklearn_convexnn._version import __version__
from sklearn_convexnn.certificates import Certificate, certify
from sklearn_convexnn.cone_decomposition import ConeDecomposition, cone_decomposition
from sklearn_convexnn.convolutional import ConvexCNNClassifier, ConvexCNNRegressor
from sklearn_convexnn.gated import GatedReLUClassifier, GatedReLURegressor
from sklearn_convexnn.model_selection import (
    ConvexReLUClassifierCV,
    ConvexReLURegressorCV,
)
from sklearn_convexnn.parallel import ParallelReLUClassifier, ParallelReLURegressor
from sklearn_convexnn.path import convex_relu_path
from sklearn_convexnn.two_layer import ConvexReLUClassifier, ConvexReLURegressor

__all__ = [
    "AlphaMax",
    "Certificate",
    "ConeDecomposition",
    "ConvexCNNClassifier",
    "ConvexCNNRegressor",
    "ConvexReLUClassifier",
    "ConvexReLUClassifierCV",
    "ConvexReLURegressor",
    "ConvexReLURegressorCV",
    "GatedReLUClassifier",
    "GatedReLURegressor",
    "ParallelReLUClassifier",
    "ParallelReLURegressor",
    "Verification",
    "__version__",
    "alpha_max",
    "certify",
    "cone_decomposition",
    "convex_relu_path",
    "cutting_planes",
    "smallest_network",
]
