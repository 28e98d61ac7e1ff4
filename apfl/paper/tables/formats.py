"""A table as CSV, Markdown, LaTeX and HTML: the same bytes for the same table."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from apfl.paper.html import page, render
from apfl.paper.tables.keys import EntryKey
from apfl.paper.tables.layout import Panel, Table
from apfl.storage.files import write_text


def csv(table: Table) -> str:
    """The tidy rows; accuracies in per cent with four digits, nothing where there is no number."""
    return table.rows.to_csv(index=False, float_format="%.4f", lineterminator="\n")


def markdown(table: Table) -> str:
    parts = [f"# {table.output.heading}", table.output.caption]
    for panel in table.panels:
        if panel.title:
            parts.append(f"## {panel.title}")
        parts.append("\n".join(_markdown_lines(panel)))
    parts.append("\n".join(f"- {note}" for note in table.notes))
    # A title may hold what looks like HTML.
    return "\n\n".join(parts).replace("<", "&lt;") + "\n"


def _markdown_lines(panel: Panel) -> Iterator[str]:
    named = any(section.label for section in panel.sections)
    heads = (["data set"] if named else []) + [panel.corner, ""]
    yield markdown_row([*heads, *panel.columns])
    yield markdown_row([":--"] * len(heads) + ["--:"] * len(panel.columns))
    for section in panel.sections:
        for group in section.groups:
            for line in group.lines:
                labels = [*([section.label] if named else []), group.label, line.name]
                entries = (f"**{entry.text}**" if entry.bold else entry.text for entry in line.entries)
                yield markdown_row([*labels, *entries])


def markdown_row(entries: Iterable[str]) -> str:
    return "| " + " | ".join(entry.replace("|", "\\|") for entry in entries) + " |"


MOST_LINES_OF_A_PAGE = 45
SPECIAL = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "[": "{[}", "]": "{]}"} | {
    char: f"\\{char}" for char in "&%$#_{}"
}
SYMBOLS = {
    "α": r"$\alpha$",
    "γ": r"$\gamma$",
    "±": r"$\pm$",
    "–": "--",
    "\N{NO-BREAK SPACE}": "~",
    "×": r"$\times$",
    "β": r"$\beta$",
    "λ": r"$\lambda$",
}
ESCAPED = str.maketrans(SPECIAL | SYMBOLS)


def latex(table: Table) -> str:
    """One float per panel, no wider than the line; needs booktabs and graphicx."""
    head = f"% {table.output.heading}; \\usepackage{{booktabs,graphicx}}\n"
    return head + "\n".join(_latex_panel(table, panel, place) for place, panel in enumerate(table.panels))


def _latex_panel(table: Table, panel: Panel, place: int) -> str:
    lines = sum(len(group.lines) for section in panel.sections for group in section.groups) + len(panel.sections)
    width = len(panel.columns) + 2
    caption = tex(" ".join(filter(None, (table.output.caption, f"{panel.title}." if panel.title else ""))))
    caption += " " + (rf"Notes: see Table~\ref{{tab:{table.name}}}." if place else tex(" ".join(table.notes)))
    rows = [" & ".join([tex(panel.corner), "", *map(tex, panel.columns)]) + r" \\"]
    for section in panel.sections:
        rows.append(r"\midrule")
        if section.label:
            rows.append(rf"\multicolumn{{{width}}}{{@{{}}l}}{{\textit{{{tex(section.label)}}}}} \\")
        for group in section.groups:
            for number, line in enumerate(group.lines):
                label = "" if number else tex(group.label)
                entries = (rf"\textbf{{{tex(one.text)}}}" if one.bold else tex(one.text) for one in line.entries)
                rows.append(" & ".join([label, tex(line.name), *entries]) + r" \\")
    return "\n".join(
        [
            r"\begin{table*}",
            r"\centering",
            rf"\caption{{{caption}}}",
            rf"\label{{tab:{table.name}{f'-{place + 1}' if place else ''}}}",
            r"\scriptsize" if lines > MOST_LINES_OF_A_PAGE else r"\footnotesize",
            r"\setlength{\tabcolsep}{3pt}",
            r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
            rf"\begin{{tabular}}{{@{{}}ll{'r' * len(panel.columns)}@{{}}}}",
            r"\toprule",
            *rows,
            r"\bottomrule",
            r"\end{tabular}}",
            r"\end{table*}",
            "",
        ]
    )


def tex(text: str) -> str:
    """Text for LaTeX, with A_n and A_d as the paper sets them.

    >>> tex("A_n at α = 0.1, 20 %")
    '$A_n$ at $\\\\alpha$ = 0.1, 20 \\\\%'
    """
    pieces = re.split(r"\b(A_[nd])\b", text)
    return "".join(f"${piece}$" if place % 2 else piece.translate(ESCAPED) for place, piece in enumerate(pieces))


def fragment(table: Table, entries: Mapping[EntryKey, int] | None = None, shown: int | None = None) -> str:
    """The table as an HTML fragment, to stand in a page that has `page`'s style.

    With ``entries``, its columns can be sorted and an entry whose key is among them opens what stands behind it. With
    ``shown``, so many of its panels are open, and the others, those without a measured number and the notes folded;
    otherwise all is open.
    """
    return render("table.html.j2", table=table, entries=entries, shown=shown)


FORMATS: dict[str, Callable[[Table], str]] = {
    "csv": csv,
    "md": markdown,
    "tex": latex,
    "html": lambda table: page(table.output.heading, fragment(table)),
}


def write(table: Table, folder: Path, kinds: Iterable[str] = FORMATS) -> list[Path]:
    """Write the table as ``{folder}/{table}.{format}``, in every format or in ``kinds`` of them."""
    paths = [Path(folder) / f"{table.name}.{kind}" for kind in kinds]
    for path in paths:
        write_text(path, FORMATS[path.suffix[1:]](table))
    return paths
