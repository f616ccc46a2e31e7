"""The command line. It holds no logic: every command is a function of the public API."""

from __future__ import annotations

import sys
import warnings

import typer

from pefttools.cli.doctor import doctor, print_diagnosis
from pefttools.cli.examples import add_command
from pefttools.errors import PeftToolsError

DEBUG = "--debug"


def build_app(*, only_doctor: bool = False) -> typer.Typer:
    """All commands.

    Args:
        only_doctor: leave out all others, which can't be imported if a package that they need is missing or broken.
    """
    app = typer.Typer(
        name="pefttools",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
        rich_markup_mode=None,
    )

    @app.callback()
    def main(
        debug: bool = typer.Option(False, DEBUG, help="Show tracebacks."),
        version: bool = typer.Option(False, "--version", help="Show the version.", is_eager=True, callback=_version),
    ) -> None:
        """Plug in, compare, save and swap parameter-efficient tuning methods for Hugging Face models."""

    if only_doctor:
        add_command(app, doctor)
    else:
        from pefttools.cli.commands import add_commands

        add_commands(app)
    return app


def run() -> None:
    """Entry point of the program: exit code 2 for wrong input, 1 for failed work."""
    from pefttools.logs import quiet_libraries

    debug = DEBUG in sys.argv
    arguments = [argument for argument in sys.argv[1:] if argument != DEBUG]
    quiet_libraries()
    warnings.formatwarning = lambda message, *place: f"warning: {message}\n"
    examined = arguments[:1] == [doctor.__name__]
    try:
        build_app(only_doctor=examined)(arguments)
    except PeftToolsError as error:
        if debug:
            raise
        _show(error.message, error.hint)
        sys.exit(error.exit_code)
    except BrokenPipeError:
        # Whoever read our output has seen enough.
        sys.exit(0)
    except Exception as error:
        if debug:
            raise
        if examined and isinstance(error, ImportError):
            # what reads the command line is broken itself
            sys.exit(print_diagnosis("--json" in arguments))
        hint = "This is unexpected. Run again with --debug for the traceback, and report it."
        if isinstance(error, ImportError):
            hint = "A package is missing or broken: `pefttools doctor` says which. --debug shows the traceback."
        _show(f"{type(error).__name__}: {error}", hint)
        sys.exit(1)


def _version(requested: bool) -> None:
    if requested:
        import pefttools

        print(f"pefttools {pefttools.__version__}")
        raise typer.Exit


def _show(message: str, hint: str | None) -> None:
    from rich.console import Console, Group
    from rich.panel import Panel
    from rich.text import Text

    parts = [Text(message)]
    if hint:
        parts.append(Text(hint, style="dim"))
    Console(stderr=True).print(Panel(Group(*parts), title="error", border_style="red", title_align="left"))
