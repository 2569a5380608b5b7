"""Hooks of mkdocs: the version in the site's name, and CHANGELOG.md as a page."""

from __future__ import annotations

import tomllib
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parent.parent


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Append the version of pyproject.toml to the site's name."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    config.site_name = f"{config.site_name} {project['version']}"
    return config


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:  # noqa: ARG001  the names are mkdocs'
    """Return CHANGELOG.md, with links relative to docs/, for changelog.md; other pages unchanged."""
    if page.file.src_uri != "changelog.md":
        return markdown
    return (ROOT / "CHANGELOG.md").read_text("utf-8").replace("](docs/", "](")
