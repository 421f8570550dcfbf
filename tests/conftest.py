import pytest
from threadpoolctl import threadpool_limits


@pytest.fixture(autouse=True, scope="session")
def one_blas_thread():
    """Many tiny products: threads only get into each other's way."""
    with threadpool_limits(limits=1):
        yield
