"""Tables of results are read, not searched: their rows would stand above every explanation."""

from typing import Any


def on_page_markdown(markdown: str, page: Any, **_: Any) -> None:
    """For mkdocs.yml."""
    uri = page.file.src_uri
    if uri.startswith("results/") and not uri.endswith("README.md"):
        page.meta["search"] = {"exclude": True}
