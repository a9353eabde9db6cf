"""The ``firstlight`` command. One module a group of commands; this one wires them and turns errors into one clear last line.

Exit codes of ``release``: 0 promoted, 2 failed a gate, 3 cannot tell, 4 waiting for sign-off, 1 error. Of every other command: 0
done, 1 refused or error, 2 (from the argument parser) wrong usage; ``verify``, ``handoff check`` and
``incidents check`` give 2 when they found something.
"""

import sys

import typer

from firstlight import __version__, settings
from firstlight.errors import FirstlightError

app = typer.Typer(
    name="firstlight",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="""Take a trained model to a watched place in production, prove what runs, and go back.

    A scientist hands a model over as a folder (`train` writes one, `handoff check` looks at one). `release` carries it through
    every gate: data, bias, benchmark, risk, `sign-off` by people, canary, promotion. `serve` keeps the champion answering,
    `status` says what is live, `rollback` goes back, `verify` proves a release offline.

    Nothing to set up: state lives in ./.firstlight (FIRSTLIGHT_STATE_DIR). Other settings: deployments/settings/.""",
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"firstlight {__version__}")
        raise typer.Exit


@app.callback()
def _root(version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Print the version and exit.")) -> None:
    settings.quieten()


def main() -> None:
    """Run the command line; errors we know become one sentence on stderr."""
    from firstlight.cli import (  # noqa: F401 - they register every command
        access_commands,
        commands,
        database_commands,
        exception_commands,
        experimenting,
        incident_commands,
        key_commands,
        ledger_commands,
        rolling,
    )

    try:
        app()
    except FirstlightError as error:
        typer.secho(f"firstlight: {error}", err=True, fg="red" if sys.stderr.isatty() else None)
        raise SystemExit(1) from None
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        typer.secho(f"firstlight: the system must let us read and write, it says {error.strerror or error}{where}", err=True)
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        typer.secho("firstlight: interrupted; run the same command again to continue", err=True)
        raise SystemExit(130) from None


if __name__ == "__main__":
    main()
