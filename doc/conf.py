"""Sphinx configuration.

``sphinx-build -t offline`` builds without the inventories of other projects.
"""

import sklearn_convexnn

project = "sklearn-convexnn"
author = "The sklearn-convexnn developers"
copyright = "The sklearn-convexnn developers, BSD-3-Clause"
version = release = sklearn_convexnn.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.intersphinx",
    "sphinx.ext.mathjax",
    "numpydoc",
    "myst_parser",
    "sphinx_gallery.gen_gallery",
]
templates_path = ["_templates"]
exclude_patterns = ["_build"]
# A single backquote in a docstring names a parameter or an attribute.
default_role = "literal"
toc_object_entries_show_parents = "hide"
# Doctests in Markdown end with a blank line, which need not be shown.
highlight_options = {"pycon": {"stripnl": True}, "python": {"stripnl": True}}

myst_enable_extensions = ["amsmath", "deflist", "dollarmath"]
myst_heading_anchors = 3

autosummary_generate = True
# The types of parameters are in their descriptions.
autodoc_typehints = "none"
# The templates list the methods; numpydoc would list them a second time.
numpydoc_show_class_members = False

intersphinx_mapping = {}
if not tags.has("offline"):  # noqa: F821
    intersphinx_mapping = {
        "python": ("https://docs.python.org/3", None),
        "numpy": ("https://numpy.org/doc/stable", None),
        "sklearn": ("https://scikit-learn.org/stable", None),
        "matplotlib": ("https://matplotlib.org/stable", None),
    }

sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "auto_examples",
    # A module that examples import, not a page.
    "ignore_pattern": r"__init__\.py|three_layer_sgd\.py",
    "backreferences_dir": "generated/backreferences",
    "doc_module": ("sklearn_convexnn",),
    "reference_url": {"sklearn_convexnn": None},
    "write_computation_times": False,
    "show_memory": False,
    # Figures and printed lines, but not the value of a last expression.
    "capture_repr": ("_repr_html_",),
}

html_theme = "pydata_sphinx_theme"
html_title = "sklearn-convexnn"
html_show_sourcelink = False
html_static_path = ["_static"]
html_css_files = ["style.css"]
html_theme_options = {
    "navigation_with_keys": False,
    "show_toc_level": 2,
    "header_links_before_dropdown": 6,
    "footer_start": ["copyright"],
    "footer_end": [],
}
# Pages without subpages need no navigation on the left, wide tables need the room.
html_sidebars = {
    page: []
    for page in ("index", "install", "user_guide", "benchmarks/**", "whats_new")
}
