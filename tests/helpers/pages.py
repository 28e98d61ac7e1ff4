"""What a person meets on a page before anything is unfolded."""

from __future__ import annotations

import re
from html.parser import HTMLParser

UNSEEN = {"script", "style", "svg", "dialog", "title"}
"""Elements whose text is not read on the page."""
WITHOUT_END = {"meta", "img", "input", "br", "link", "hr"}


class OpenText(HTMLParser):
    """Collects in ``words`` what stands open: of what is folded, its summary alone."""

    def __init__(self) -> None:
        super().__init__()
        self.words: list[str] = []
        self.inside: list[str] = []

    def handle_starttag(self, tag: str, attrs: list) -> None:
        if tag not in WITHOUT_END:
            self.inside.append(tag)

    def handle_startendtag(self, tag: str, attrs: list) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        while tag in self.inside and self.inside.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        folded = self.inside.count("details") - ("summary" in self.inside)
        if folded < 1 and UNSEEN.isdisjoint(self.inside):
            self.words += data.split()


def open_words(page: str) -> list[str]:
    """The words of a page, numbers in tables among them, that are read without unfolding anything."""
    parser = OpenText()
    parser.feed(page)
    return parser.words


def section_ids(page: str) -> list[str]:
    """The sections of a page, in their order."""
    return re.findall(r'<section[^>]* id="([a-z0-9_-]+)"', page)


def section_of(page: str, name: str) -> str:
    """One of them, as HTML."""
    return re.search(rf'<section[^>]* id="{name}">.*?</section>', page, re.DOTALL)[0]


def dumbbells(page: str) -> set[str]:
    """The marks of the dumbbell plot in its wide layout: data set, setting, method, and which of the two it is."""
    return set(re.findall(r'id="dumbbell-wide-([^"]*-(?:published|reproduced))"', page))
