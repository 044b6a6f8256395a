"""How Sphinx builds this documentation: `make docs`.

Pages are MyST markdown; the reference comes from the docstrings (Google style). A page for each public module of the
package is written below reference/modules/ before each build, so that a new module is in it by itself.
"""

from __future__ import annotations

import pkgutil
import tomllib
from pathlib import Path
from typing import Any

import hyperpy

HERE = Path(__file__).parent
MODULES = HERE / "reference" / "modules"
# Modules whose classes have mixins from private ones: what these give is a class's own to a reader.
MIXED = {"machine"}

project = "hyperpy"
author = "the hyperpy authors"
copyright = "the hyperpy authors"  # noqa: A001 - Sphinx's name
version = release = tomllib.loads((HERE.parent / "Cargo.toml").read_text())["workspace"]["package"]["version"]

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
exclude_patterns = ["**/.*"]
root_doc = "index"
# `name` in a docstring is code, and a link where it names something of the package.
default_role = "py:obj"
# A name that two modules list, such as an error that one of them hands on, is linked to the first.
suppress_warnings = ["ref.python"]

myst_heading_anchors = 3
myst_enable_extensions = ["colon_fence"]

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_default_options = {"members": True}
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_custom_sections = [("Arguments", "params_style"), ("Class attributes", "params_style")]

html_theme = "furo"
html_title = f"hyperpy {release}"
html_show_sphinx = False
html_copy_source = False
html_static_path = ["_static"]
html_css_files = ["wide.css"]
pygments_style = "tango"
pygments_dark_style = "monokai"


def is_private(name: str) -> bool:
    """Whether nobody but the package imports the module: the lab's parts are reached through `hyperpy.lab`."""
    return name.startswith(("_", "lab_"))


def write_module_pages() -> None:
    """Write a page for each public module, only where it changes; remove those of modules that are gone."""
    MODULES.mkdir(parents=True, exist_ok=True)
    names = [module.name for module in pkgutil.iter_modules(hyperpy.__path__) if not is_private(module.name)]
    for page in MODULES.glob("*.md"):
        if page.stem not in names:
            page.unlink()
    for name in names:
        page = MODULES / f"{name}.md"
        option = "   :inherited-members:\n" if name in MIXED else ""
        text = f"# hyperpy.{name}\n\n```{{eval-rst}}\n.. automodule:: hyperpy.{name}\n{option}```\n"
        if not page.exists() or page.read_text() != text:
            page.write_text(text)


def setup(app: Any) -> None:
    """Called by Sphinx."""
    write_module_pages()
