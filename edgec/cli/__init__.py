"""The command line: one module per verb, each a thin layer over the Python API.

Results go to stdout (``--json`` for machines), progress and errors to stderr. Exit codes: 0 done, 1 the input is at
fault, 2 usage, 3 unsupported operator or target, 4 parity failed, 5 slower than allowed, 6 device, 130 interrupted.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module

import click

import edgec
from edgec.errors import EdgecError

__all__ = ["cli", "main"]

_VERBS = ("compile", "run", "check", "bench", "inspect", "targets", "quantize", "train", "tune", "doctor")


class _Verbs(click.Group):
    """Loads a verb's module when it is asked for: `edgec targets` needs no TVM."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  click hands it over
        return list(_VERBS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:  # noqa: ARG002
        if name not in _VERBS:
            return None
        command = import_module(f"edgec.cli.{name}").command
        assert isinstance(command, click.Command)
        return command


@click.group(cls=_Verbs, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(edgec.__version__, prog_name="edgec")
def cli() -> None:
    """Compile neural networks for small devices, and prove that they compute the same there."""


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and leave with its exit code; a user's mistake never shows a traceback."""
    arguments = sys.argv[1:] if arguments is None else arguments
    verb = next((word for word in arguments if not word.startswith("-")), "")
    try:
        code = cli.main(arguments, prog_name="edgec", standalone_mode=False)
        sys.stdout.flush()
    except EdgecError as err:
        click.echo(f"edgec: error: {verb + ': ' if verb in _VERBS else ''}{err}", err=True)
        sys.exit(err.exit_code)
    except click.exceptions.NoArgsIsHelpError as err:
        click.echo(err.format_message())
        sys.exit(2)
    except click.ClickException as err:
        err.show()
        sys.exit(err.exit_code)
    except (KeyboardInterrupt, click.Abort):
        click.echo("edgec: interrupted; nothing was written", err=True)
        sys.exit(130)
    except SystemExit:
        # No verb raises this. Click (8.1 to 8.5) and rich do where stdout's reader went away, and make it a failure,
        # which `edgec inspect m.edgec | head` is not.
        _drop_stdout()
        sys.exit(0)
    except OSError as err:  # a full disk behind stdout, no place for temporary files
        where = f"\n  where: {err.filename}" if err.filename else ""
        click.echo(f"edgec: error: {err.strerror}{where}", err=True)
        _drop_stdout()
        sys.exit(1)
    sys.exit(code if isinstance(code, int) else 0)


def _drop_stdout() -> None:
    """What is still buffered must not raise again when the interpreter closes stdout."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
