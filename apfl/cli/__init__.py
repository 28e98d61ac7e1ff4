"""``python -m apfl`` and ``apfl``: one subcommand per kind of artefact.

Mistakes of the user end in one line on standard error and exit status 2, never in a traceback.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
from contextlib import suppress
from io import TextIOWrapper
from typing import Any, NoReturn

import typer

from apfl.engine.process import tune_start
from apfl.errors import UserError

app = typer.Typer(
    name="apfl",
    help="Benchmark suite for asynchronous personalized federated learning through global memorization.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
UsageError: Any = typer.BadParameter.__base__
"""What the parser raises, whichever package it comes from."""
JOBS = (
    "data", "partition", "semantics", "initial", "federate", "memorize", "personalize", "tune", "tables", "figures",
    "report", "claims", "accept",
)  # fmt: skip
"""The commands that rules call: their output is a log."""


def register() -> typer.Typer:
    """The command line with all its commands, however often it is asked for."""
    from apfl.cli import archive, begin, claims, data, paper, stages, study

    if not app.registered_commands:
        for command in (
            begin.init, data.data, data.partition, data.clients, data.semantics,
            stages.initial, stages.federate, stages.memorize, stages.personalize, stages.accept, paper.tune,
            paper.tables, paper.figures, paper.report, paper.check_tables,
            study.methods, study.plan, study.check, study.status,
            archive.pack, archive.unpack, archive.merge, claims.claims,
        ):  # fmt: skip
            app.command()(command)
        app.callback()(_begin)
    return app


def _begin(context: typer.Context) -> None:
    """Benchmark suite for asynchronous personalized federated learning through global memorization."""
    from apfl.jobs.log import begin

    if context.invoked_subcommand in JOBS and "--page" not in sys.argv:  # a page goes to a file
        begin(context.invoked_subcommand)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; a `UserError` becomes one line on standard error and exit status 2.

    So do an unknown command or option, a file that cannot be read or written, and a full disk, on which standard output
    may be as well. SIGTERM ends the process as an exception would, so that no half-written file stays; its status is
    143, as if nobody had caught it.
    """
    _stand()
    tune_start()
    register()
    ended: list[int] = []

    def end(number: int, frame: object) -> None:
        ended.append(number)
        sys.exit(128 + number)

    signal.signal(signal.SIGTERM, end)
    try:
        status = _status(arguments, ended)
    except Exception:
        if not ended:
            raise
        status = None
    # A library may have caught the exit, and taken it for a damaged file.
    raise SystemExit(128 + ended[0] if ended else status or 0)


def _stand() -> None:
    """See that there is a folder to work in, and that what a terminal cannot show ends nothing."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")
    try:
        os.getcwd()
    except FileNotFoundError:
        _fail("the folder in which this shell stands was removed; change to another one")


def _status(arguments: list[str] | None, ended: list[int]) -> int | None:
    """The exit status of a command line; mistakes of the user are not reported once a signal has ``ended`` it."""
    try:
        status: int | None = app(args=arguments, prog_name="apfl", standalone_mode=False)
        return status
    except (UserError, UsageError, OSError) as error:
        if ended:
            return None
        if isinstance(error, UserError):
            _fail(error)
        if isinstance(error, UsageError):
            _fail(_wrong_call(error, bool(sys.argv[1:] if arguments is None else arguments)))
        if error.filename is not None and error.errno not in (errno.ENOSPC, errno.EDQUOT):
            _fail(f"{error.filename}: {error.strerror}; correct the path or its rights")
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        # What standard output still holds cannot be written either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        _fail(f"cannot write: {error.strerror}; free some space and run again")
    except typer.Abort:
        raise SystemExit(1) from None


def _wrong_call(error: Any, some: bool) -> str:
    """What is wrong with the words after ``apfl``, and which help to read; without any word, the help itself."""
    command = error.ctx.command_path if error.ctx else "apfl"
    if not some:
        print(error.ctx.get_help(), file=sys.stderr)
        raise SystemExit(2) from None
    return f"{error.format_message().rstrip('.')}; `{command} --help` lists what there is"


def _fail(error: object) -> NoReturn:
    with suppress(OSError):  # of a full disk, where nothing can be reported
        print(f"apfl: error: {' '.join(str(error).split())}", file=sys.stderr)
    raise SystemExit(2) from None
