"""Tables as Parquet."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from apfl.errors import UserError
from apfl.storage.files import atomic_path, first_line, require_file

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa


def write_parquet(path: str | os.PathLike[str], frame: pd.DataFrame | pa.Table, **options: Any) -> None:
    """Write a table, without the index if it is a data frame; ``options`` are those of pyarrow's `write_table`."""
    import pyarrow as pa
    from pyarrow.parquet import write_table

    table = frame if isinstance(frame, pa.Table) else pa.Table.from_pandas(frame, preserve_index=False)
    with atomic_path(path) as temporary:
        write_table(table, temporary, compression="zstd", write_page_checksum=True, **options)


def read_parquet(path: str | os.PathLike[str], what: str, columns: tuple[str, ...] = ()) -> pd.DataFrame:
    import pandas as pd

    path = require_file(path, what)
    try:
        frame = pd.read_parquet(path, page_checksum_verification=True)
    except Exception as error:  # pyarrow raises many kinds for damaged files
        raise UserError(f"{what} {path}: cannot be read ({first_line(error)}); make it again") from None
    if missing := [name for name in columns if name not in frame.columns]:
        raise UserError(f"{what} {path}: has no column {missing[0]!r}; make it again")
    return frame
