# SPDX-License-Identifier: MIT
"""Sphinx configuration. The installed package is documented, not the checkout beside it."""

from __future__ import annotations

import builtins
import os
import re
import sys
from importlib import metadata
from typing import Any
from urllib.parse import urlsplit

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
html_js_files = ["pages.js"]
# Furo's own choice for dark pages underlines the names of modules, as if they were links.
pygments_dark_style = "github-dark"

# Where the pages are published, their address is in the environment. Read the Docs itself puts a
# switch of versions on each page; without it a page has the version in its title, and nothing is
# missing. The social cards are drawn from a page's title and first words.
if "READTHEDOCS" in os.environ:
    extensions += ["sphinxext.opengraph"]
    html_baseurl = ogp_site_url = os.environ["READTHEDOCS_CANONICAL_URL"]
    ogp_site_name = project
    ogp_social_cards = {"site_url": " ", "line_color": "#2a7", "description_max_length": 240}


def setup(app: Any) -> None:
    """Called by Sphinx."""
    app.connect("html-page-context", lead_from_any_depth)


def lead_from_any_depth(
    _app: Any, page: str, _template: str, context: dict[str, Any], _doctree: Any
) -> None:
    """Let the links of the page for missing pages work at any address that it is the answer to."""
    if page == "404" and "READTHEDOCS" in os.environ:
        top = urlsplit(os.environ["READTHEDOCS_CANONICAL_URL"]).path
        context["metatags"] = f'<base href="{top}">' + context.get("metatags", "")


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
