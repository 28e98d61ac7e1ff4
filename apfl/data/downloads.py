"""Files that torchvision has downloaded, held to the checksums that it knows.

torchvision checks an archive when it downloads it, and CIFAR's files whenever it reads them. Those of Fashion-MNIST and
EMNIST it checks only once: what lies in the folder later is read as it is. So their files are compared with what the
archive beside them holds, which is compared with its checksum.
"""

from __future__ import annotations

import gzip
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from apfl.errors import UserError

PIECE = 1 << 20


def check_extracted(name: str, kind: Any, folder: Path) -> None:
    """A `UserError` if files of an earlier download are not those of its archive; ``kind``: torchvision's class."""
    if name not in ("emnist", "fashion_mnist"):
        return
    own = folder / kind.__name__
    if (own / "processed").exists():
        raise UserError(f"{own / 'processed'}: left by an old torchvision, and not read; remove the folder")
    raw = own / "raw"
    for file, archive, md5, member in _files(name, kind, raw):
        if file.exists():
            _check(file, archive, md5, member, raw)


def _files(name: str, kind: Any, raw: Path) -> Iterator[tuple[Path, Path, str, str]]:
    """An extracted file, its archive, the archive's MD5, and what the file is called in a zip archive."""
    if name == "fashion_mnist":
        for archive, md5 in kind.resources:
            yield raw / Path(archive).stem, raw / archive, md5, ""
        return
    for part in ("train", "test"):
        for what in ("images-idx3-ubyte", "labels-idx1-ubyte"):
            file = f"emnist-letters-{part}-{what}"
            yield raw / file, raw / Path(kind.url).name, kind.md5, f"gzip/{file}.gz"


def _check(file: Path, archive: Path, md5: str, member: str, raw: Path) -> None:
    from torchvision.datasets.utils import check_integrity

    remedy = f"remove {raw} to download it again"
    if not archive.is_file():
        raise UserError(f"{file}: the archive that it comes from, {archive.name}, is not beside it; {remedy}")
    if not check_integrity(str(archive), md5):
        raise UserError(f"{archive}: its MD5 is not {md5}, which torchvision knows; {remedy}")
    with ExitStack() as opened:
        packed = opened.enter_context(zipfile.ZipFile(archive)).open(member) if member else archive.open("rb")
        wanted, there = (
            opened.enter_context(gzip.open(opened.enter_context(packed))),
            opened.enter_context(file.open("rb")),
        )
        while piece := wanted.read(PIECE):
            if there.read(len(piece)) != piece:
                raise UserError(f"{file}: is not what {archive.name} holds; {remedy}")
        if there.read(1):
            raise UserError(f"{file}: is longer than what {archive.name} holds; {remedy}")
