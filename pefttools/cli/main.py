"""The command line. It holds no logic: every command is a function of the public API."""

from __future__ import annotations

import sys
import warnings
from importlib.metadata import entry_points

import typer

from pefttools.cli.artifacts import compose, evaluate, export, inspect, merge, predict, verify
from pefttools.cli.hub import push_to_hub
from pefttools.cli.importing import import_adapter
from pefttools.cli.knowledge import index, search
from pefttools.cli.listing import bases, methods, objectives, schema, tasks, variants
from pefttools.cli.planning import plan
from pefttools.cli.serving import api_key, serve
from pefttools.cli.signing import sign, signing_key
from pefttools.cli.store import store_app
from pefttools.cli.training import train
from pefttools.errors import PeftToolsError

DEBUG = "--debug"


def build_app() -> typer.Typer:
    """All commands, including those of other packages (entry points ``pefttools.commands``)."""
    app = typer.Typer(
        name="pefttools",
        no_args_is_help=True,
        add_completion=False,
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

    for command in (
        plan,
        train,
        evaluate,
        predict,
        inspect,
        verify,
        sign,
        merge,
        export,
        compose,
        serve,
        index,
        search,
        methods,
        variants,
        tasks,
        objectives,
        schema,
    ):
        app.command()(command)
    app.command(hidden=True)(bases)
    app.command("import")(import_adapter)
    app.command("push-to-hub")(push_to_hub)
    app.command("api-key")(api_key)
    app.command("signing-key")(signing_key)
    app.add_typer(store_app(), name="store")
    for point in sorted(entry_points(group="pefttools.commands"), key=lambda point: point.name):
        app.command(point.name)(point.load())
    return app


def run() -> None:
    """Entry point of the program: exit code 2 for wrong input, 1 for failed work."""
    from pefttools.logs import quiet_libraries

    debug = DEBUG in sys.argv
    arguments = [argument for argument in sys.argv[1:] if argument != DEBUG]
    quiet_libraries()
    warnings.formatwarning = lambda message, *place: f"warning: {message}\n"
    try:
        build_app()(arguments)
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
        _show(
            f"{type(error).__name__}: {error}",
            "This is unexpected. Run again with --debug for the traceback, and report it.",
        )
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
