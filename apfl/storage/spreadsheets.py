"""CSV files as people and spreadsheets write them."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from pathlib import Path

from apfl.errors import UserError

DELIMITERS = ",;\t"
ENCODINGS = {b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}
"""By how a file begins; otherwise it is UTF-8, with a byte order mark or without."""


def read_rows(
    path: Path, columns: Sequence[str], what: str, optional: Sequence[str] = ()
) -> list[tuple[int, dict[str, str]]]:
    """The rows of a CSV file by the names of its columns, each with its line; empty rows are left out. ``what`` a row
    holds is for errors.

    Cells are separated by commas, semicolons (then numbers may have a decimal comma) or tabs; the columns may stand in
    any order. A `UserError` for other columns, and for rows with more or fewer cells.
    """
    wanted = ",".join(columns) + "".join(f" (perhaps {name})" for name in optional)
    try:
        content = path.read_bytes()
        text = content.decode(ENCODINGS.get(content[:2], "utf-8-sig"))
        first, *rest = re.split(r"\r\n|\r|\n", text, maxsplit=1)
        named = re.fullmatch(r"sep=(.)", first.strip())  # what some spreadsheets put before the names of the columns
        text = rest[0] if named and rest else text
        head = text.lstrip().split("\n", 1)[0]
        delimiter = named[1] if named else max(DELIMITERS, key=head.count)
        reader = csv.reader(text.splitlines(), delimiter=delimiter, strict=True, skipinitialspace=True)
        lines = [(reader.line_num + bool(named), [cell.strip() for cell in row]) for row in reader if any(row)]
    except (csv.Error, UnicodeError, OSError) as error:
        raise UserError(f"{path}: not a CSV file ({error}); write columns {wanted}") from None
    line, names = lines[0] if lines else (1, [])
    names = [name.lower() for name in names]
    known = {*columns, *optional}
    if len(lines) < 2 or not set(columns) <= set(names) <= known or len(set(names)) < len(names):
        shown = f" (it is {head.strip()!r:.80})" if head.strip() else ""
        raise UserError(f"{path}: line {line}: must be {wanted}, with rows below; correct the file{shown}")
    for line, cells in lines[1:]:
        if len(cells) != len(names):
            shown = delimiter.join(cells)
            raise UserError(f"{path}: line {line}: {shown!r:.80} is not a {what}; correct the line")
    comma = delimiter == ";"
    return [
        (line, {name: _point(cell) if comma else cell for name, cell in zip(names, cells, strict=True)})
        for line, cells in lines[1:]
    ]


def _point(cell: str) -> str:
    """A number with a decimal comma as one with a point."""
    return cell.replace(",", ".") if re.fullmatch(r"[+-]?\d+,\d+", cell) else cell
