# SPDX-License-Identifier: MIT
"""Sphinx configuration. The installed package is documented, not the checkout beside it."""

from __future__ import annotations

import builtins
import os
import re
import sys
from importlib import metadata

project = "pytest-nsisolate"
author = "The pytest-nsisolate developers"
copyright = f"2026, {author}"
release = metadata.version("pytest-nsisolate")

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.intersphinx",
    "sphinx.ext.napoleon",
]
exclude_patterns = ["_build"]

html_theme = "furo"
html_title = f"pytest-nsisolate {release}"
html_static_path = ["_static"]
html_css_files = ["pages.css"]

# Where the pages are published, their address is in the environment; Read the Docs itself puts a
# switch of versions on each page. The social cards are drawn from a page's title and first words,
# and the page for missing pages gets links that work at any depth.
if "READTHEDOCS" in os.environ:
    extensions += ["notfound.extension", "sphinxext.opengraph"]
    html_baseurl = ogp_site_url = os.environ["READTHEDOCS_CANONICAL_URL"]
    ogp_site_name = project
    ogp_social_cards = {"site_url": " ", "line_color": "#2a7"}

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "show-inheritance": True}

# The build must give the same result without a network, so the inventories of other projects are
# asked only where the pages are published. Elsewhere their names are known but lead nowhere.
intersphinx_mapping = (
    {
        "python": ("https://docs.python.org/3", None),
        "pytest": ("https://docs.pytest.org/en/stable", None),
    }
    if "READTHEDOCS" in os.environ
    else {}
)
_known_roots = "|".join(
    map(re.escape, sorted({*sys.stdlib_module_names, "pytest", "_pytest", "pluggy", "coverage"}))
)
_known_names = "|".join(map(re.escape, dir(builtins)))
nitpick_ignore_regex = [
    ("py:.*", rf"(?:{_known_roots})\..*"),
    ("py:.*", rf"(?:{_known_names})"),
    ("py:.*", r"(?:pytest_nsisolate\.(?:\w+\.)+)?[PT]"),  # type variables
    ("py:.*", r"(?:pytest_nsisolate\.view\.(?:\w+\.)+)?(?:HasPid|Which)"),  # said in words there
    ("py:.*", r"pytest_nsisolate\.isolate\.faulty\.Faulty"),  # a base of boxes and hosts
    ("py:.*", r"(?:pytest_nsisolate\.testbed\.\w+\.)?(?:Words|Ready|Place|CompletedProcess)"),
]
