"""``python -m apfl`` and ``apfl``: one subcommand per kind of artefact.

Mistakes of the user end in one line on standard error and exit status 2, never in a traceback.
"""

from __future__ import annotations

import sys

import typer

from apfl.errors import UserError

app = typer.Typer(
    name="apfl",
    help="Benchmark suite for asynchronous personalized federated learning through global memorization.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _register() -> None:
    from apfl.cli import data, federate, paper, study

    for module in (data, federate, paper, study):
        module.register(app)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; a `UserError` becomes one line on standard error and exit status 2."""
    _register()
    try:
        app(args=arguments, prog_name="apfl")
    except UserError as error:
        message = " ".join(str(error).split())
        print(f"apfl: error: {message}", file=sys.stderr)
        raise SystemExit(2) from None
