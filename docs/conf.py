"""Sphinx configuration: `make docs` builds the pages and runs their examples."""

import sys
from pathlib import Path

import siteward

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE / "_ext"), str(HERE / "_examples")]

project = "siteward"
author = "The siteward developers"
copyright = "The siteward developers"
version = release = siteward.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.doctest",
    "sphinx_click",
    "siteward_docs",
]
exclude_patterns = ["_build", "_examples"]
myst_enable_extensions = ["deflist"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
python_maximum_signature_line_length = 88
python_use_unqualified_type_names = True
toc_object_entries_show_parents = "hide"
doctest_global_setup = "from siteward import *"

html_theme = "furo"
html_title = f"siteward {release}"
html_show_copyright = False
html_show_sphinx = False
