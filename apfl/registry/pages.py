"""The methods as text and as the page of the documentation."""

from __future__ import annotations

from typing import Any

METHODS_PAGE = """# Methods

Look up a method here: what it does, its reference, its hyper-parameters and their defaults. `apfl methods --markdown`
prints this page from the cards of the files in `baselines/`.
"""


def _reference(docstring: str) -> str:
    """Authors, title and year of the BibTeX entry in a card; an empty text if it has none."""
    import re

    def entry(name: str) -> str:
        found = re.search(rf"\b{name}\s*=\s*\{{(.*?)\}}\s*[,}}]", docstring, re.DOTALL)
        return " ".join(found[1].split()) if found else ""

    authors = [author.split(",")[0] for author in entry("author").split(" and ")]
    names = authors[0] + (" et al." if len(authors) > 2 else f" and {authors[1]}" if len(authors) == 2 else "")
    return f"{names}: {entry('title')}, {entry('year')}" if entry("title") else ""


def as_text(card: Any) -> str:
    from textwrap import fill, indent

    starts = f", on {card.base}" if card.base else ""
    needs = f", needs {' and '.join(card.needs)}" if card.needs else ""
    lines = [f"{card.module:<12} {card.title} ({card.stage}{starts}{needs})", indent(fill(card.summary, 104), "    ")]
    if reference := _reference(card.docstring):
        lines.append(indent(fill(reference, 104), "    "))
    width = max((len(f"{name} = {field.default!r}") for name, field in card.fields.items()), default=0)
    lines += [
        f"    {f'{name} = {field.default!r}':<{width}}  {field.doc}".rstrip() for name, field in card.fields.items()
    ]
    return "\n".join(lines) + "\n"


def _asynchronous(card: Any) -> str:
    """Whether the method runs on an asynchronous schedule, or with which hyper-parameters."""
    if isinstance(card.additive, bool):
        return "yes" if card.additive else "no"
    return "with " + ", ".join(f"`{name}` {value}" for name, value in card.additive.items())


def _dimension(values: Any) -> str:
    """A dimension of a search space in words."""
    if not isinstance(values, dict):
        return ", ".join(map(str, values))
    return f"{values['low']:g} to {values['high']:g}" + (" (log)" if values.get("scale") == "log" else "")


def as_markdown(card: Any) -> str:
    lines = [f"## {card.title} (`{card.module}`)", "", card.summary, ""]
    if reference := _reference(card.docstring):
        lines += [f"*{reference}.*", ""]
    facts = [f"stage: {card.stage}", f"shown model: {card.model}"]
    facts += [f"starts from: `{card.base}`"] if card.base else []
    facts += [f"needs: {', '.join(card.needs)}"] if card.needs else []
    facts += [f"asynchronous: {_asynchronous(card)}"] if card.stage == "federate" else []
    lines += ["; ".join(facts) + ".", ""]
    if card.search:
        dimensions = (f"`{name}` {_dimension(values)}" for name, values in card.search.items())
        lines += [f"Search space: {'; '.join(dimensions)}.", ""]
    if card.fields:
        lines += ["| hyper-parameter | default | |", "| --- | --- | --- |"]
        lines += [f"| `{name}` | `{field.default!r}` | {field.doc} |" for name, field in card.fields.items()]
        lines.append("")
    return "\n".join(lines)
