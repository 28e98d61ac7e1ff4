"""What a page is made of: sections, and pictures within it."""

from __future__ import annotations

import base64
import hashlib
import html
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from apfl.durations import duration


@dataclass(frozen=True)
class PageSection:
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


TEMPLATES = Path(__file__).parent / "templates"


@cache
def _environment() -> Environment:
    made = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    made.filters |= {"subscripts": subscripts, "duration": duration}
    return made


def render(template: str, **values: Any) -> str:
    """HTML by one of the templates, which escape whatever they are given but what they call safe."""
    return _environment().get_template(template).render(**values)


def subscripts(text: str) -> str:
    """A_n and A_d with real subscripts, the rest escaped."""
    return Markup(re.sub(r"\bA_([nd])\b", r"A<sub>\1</sub>", html.escape(text)))


def page(title: str, body: str, data: str = "", script: str = "") -> str:
    """A self-contained HTML page around a trusted fragment, with ``data`` (JSON, escaped) for its ``script``.

    The page may load nothing, and run no script but this one.
    """
    allowed = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() if script else ""
    return render("page.html.j2", title=title, body=body, data=data, script=script, allowed=allowed)
