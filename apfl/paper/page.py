"""What a page is made of: sections, and pictures within it."""

from __future__ import annotations

import re
from dataclasses import dataclass

from markupsafe import escape


@dataclass(frozen=True)
class Section:
    """A part of the page; ``body`` is trusted HTML."""

    identifier: str
    title: str
    body: str


def inline_svg(text: str, prefix: str, label: str) -> str:
    """An SVG file as an element of a page: no prolog, ids of its own, and a label for those who cannot see it."""
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.DOTALL)
    text = re.sub(r'\bid="', f'id="{prefix}', text)
    text = re.sub(r'href="#', f'href="#{prefix}', text)
    text = re.sub(r"url\(#", f"url(#{prefix}", text)
    return text.replace("<svg ", f'<svg role="img" aria-label="{escape(label)}" ', 1)
