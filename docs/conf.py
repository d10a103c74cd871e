"""How `make docs` builds the site: Sphinx, with pages in Markdown."""

from importlib.metadata import version as installed

project = "srum"
author = "the srum developers"
version = release = installed("srum")
extensions = ["myst_parser"]
html_theme = "furo"
html_title = f"srum {version}"
myst_heading_anchors = 3
myst_enable_extensions = ["colon_fence"]
exclude_patterns = ["results/shapes-pretraining"]
suppress_warnings = ["myst.xref_missing"]  # links into the source tree; a test follows them
