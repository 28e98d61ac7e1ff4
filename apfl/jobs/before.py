"""What comes before the first job: what a killed Snakemake and a clock set back leave behind is put right, so that the
same command goes on, and the study is tried out."""

from __future__ import annotations

import fcntl
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from apfl.data.catalogue import UNDER_ROOT
from apfl.errors import UserError
from apfl.project import home
from apfl.registry.code import code_digest
from apfl.registry.trees import ROOT
from apfl.storage.files import digest, read_record, sha256_file, write_json
from apfl.storage.locks import busy
from apfl.study.runs import Artefact
from apfl.study.study import Study

NOTE = ".files.json"


def clear_stale_locks(state: str | os.PathLike[str] = ".snakemake") -> None:
    """Remove the locks that a killed Snakemake left below ``state``, and keep others from doing so while we live.

    Whoever is alive shares a lock of the kernel on ``state/host``, which names the machine; who can have it alone is
    the only one. Another machine's locks stay, as the kernel's may not reach it: `snakemake --unlock` removes them.
    """
    name, state = platform.node(), Path(state)
    with suppress(OSError):  # a folder that cannot be written, or a file system without locks
        state.mkdir(exist_ok=True)
        handle = os.open(state / "host", os.O_RDWR | os.O_CREAT, 0o666)
        if not busy(handle):
            stale = list((state / "locks").glob("*.lock"))
            if not stale or os.pread(handle, 4096, 0).decode(errors="replace") == name:
                os.truncate(handle, 0)
                os.pwrite(handle, name.encode(), 0)
                for path in stale:
                    path.unlink(missing_ok=True)
        fcntl.flock(handle, fcntl.LOCK_SH)


def date_back(folder: str | os.PathLike[str] = "results", now: float | None = None) -> int:
    """Give files below ``folder`` that were changed in the future the present time; returns how many there were.

    A clock was set back since. Snakemake throws the output of a job away that is older than the job's input.
    """
    latest, found = time.time() if now is None else now, 0
    for place, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):  # it is gone by now, or somebody else's
                path = os.path.join(place, name)
                if os.lstat(path).st_mtime > latest:
                    os.utime(path, (latest, latest), follow_symlinks=False)
                    found += 1
    return found


def note_sources(study: Study, entries: Iterable[Artefact], results: str | os.PathLike[str] = "results") -> None:
    """Beside each data set or partition that is made from files write what these hold, anew if that has changed: the
    note is an input of the job that makes it. Where the files lie, and when they were copied there, changes nothing."""
    for entry in entries:
        read = {"data": "folder" if entry.spec.get("source") in UNDER_ROOT else "", "partition": "saved"}
        if named := entry.spec.get(read.get(entry.kind, "")):
            made = Path(results, entry.path)
            note_source(Path(study.data_root, named), made.with_suffix(NOTE), made)


def note_source(folder: Path, note: Path, made: Path) -> None:
    """The note on one folder or file, as old as the content is; one that is gone leaves it as it was."""
    known = read_record(note) if note.exists() else {}
    if not folder.exists():
        if not note.exists():
            write_json(note, {})
        return
    paths = sorted(path for path in (folder, *folder.rglob("*")) if path.is_file())
    states = [(path.relative_to(folder).as_posix(), (at := path.stat()).st_size, at.st_mtime_ns) for path in paths]
    if known.get("seen") == (seen := digest([ascii(states)])):
        return
    content = digest([ascii([(name, sha256_file(path)) for (name, *_), path in zip(states, paths, strict=True)])])
    earlier = note if known.get("content") == content else made if not note.exists() and made.exists() else None
    age = earlier.stat().st_mtime - (earlier is made) if earlier else None
    write_json(note, {"seen": seen, "content": content})
    if age is not None:
        os.utime(note, (age, age))


def code_alone(state: str | os.PathLike[str] = ".snakemake") -> str:
    """The folder of the code, for the search path of jobs that may have packages of their own: where others are
    installed beside the suite, a folder below ``state`` with links to the suite's."""
    if home() == ROOT:
        return str(ROOT)
    folder = Path(state, "code").absolute()
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("apfl", "baselines"):
        link = folder / name
        if not link.exists() or link.resolve() != ROOT / name:
            made = folder / f".{name}.{os.getpid()}"
            made.symlink_to(ROOT / name)
            made.replace(link)
    return str(folder)


FAILED = "apfl: error: "
STATUS = 2


def try_once(study: Study, text: str, kept: Path) -> None:
    """Run `apfl check` on a study, whose configuration is the JSON ``text``, unless ``kept`` has a note that it passed.

    A `UserError` if it does not pass. Where it cannot be run at all, as the packages of the jobs are in environments of
    their own, nothing is said: a job will find out.
    """
    cards = sorted({method.card.module for method in study.methods.values() if method.card.stage != "external"})
    code = code_digest("apfl.stages.try_out", *(f"baselines.{module}" for module in cards))
    note = kept / digest([text, code])
    if note.exists():
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "study.json"
        path.write_text(text, encoding="utf-8")
        roots = {"APFL_DATA_ROOT": study.data_root, "APFL_SEMANTICS_ROOT": study.semantics_root}
        paths = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        command = [sys.executable, "-m", "apfl", "check", str(path)]
        done = subprocess.run(
            command, env=os.environ | roots | {"PYTHONPATH": paths}, capture_output=True, text=True, errors="replace"
        )
    said = [line for line in done.stderr.splitlines() if line.startswith(FAILED)]
    if done.returncode == STATUS and said:
        raise UserError(said[-1].removeprefix(FAILED).replace(f"{path}: ", "").strip())
    if done.returncode == 0:
        with suppress(OSError):  # where nothing can be kept, it is tried out again
            kept.mkdir(parents=True, exist_ok=True)
            note.touch()
