"""Which documents are too long for the quick tests."""

import pytest


def pytest_collection_modifyitems(items):
    for item in items:
        # As one test each; the README has a step of its own as well.
        if item.nodeid.startswith(("doc/user_guide.md", "README.md")):
            item.add_marker(pytest.mark.slow)
