"""All commands: our own, and those of other packages (entry points ``pefttools.commands``)."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points

import typer

from pefttools.cli.artifacts import compose, evaluate, export, inspect, merge, predict, verify
from pefttools.cli.doctor import doctor
from pefttools.cli.examples import add_command
from pefttools.cli.hub import push_to_hub
from pefttools.cli.importing import import_adapter
from pefttools.cli.knowledge import index, search
from pefttools.cli.listing import bases, methods, objectives, schema, tasks, variants
from pefttools.cli.planning import plan
from pefttools.cli.serving import api_key, serve
from pefttools.cli.signing import sign, signing_key
from pefttools.cli.starting import new
from pefttools.cli.store import store_app
from pefttools.cli.training import train
from pefttools.errors import ConfigError


def add_commands(app: typer.Typer) -> None:
    """Register them."""
    for command in (
        doctor,
        new,
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
        add_command(app, command)
    add_command(app, bases, hidden=True)
    add_command(app, import_adapter, "import")
    add_command(app, push_to_hub, "push-to-hub")
    add_command(app, api_key, "api-key")
    add_command(app, signing_key, "signing-key")
    app.add_typer(store_app(), name="store")
    for point in sorted(entry_points(group="pefttools.commands"), key=lambda point: point.name):
        try:
            add_command(app, point.load(), point.name)
        except Exception as error:
            # One broken package must not take all other commands away.
            add_command(app, _broken(point, error), point.name, context_settings={"ignore_unknown_options": True})


def _broken(point: EntryPoint, error: Exception) -> Callable[..., None]:
    """A command that says why the real one can't be used."""
    owner = point.dist.name if point.dist else "an unknown distribution"
    problem = f"the command {point.name!r} of {owner} can't be imported from {point.value}: {error}"

    def command(words: list[str] | None = typer.Argument(None, hidden=True)) -> None:
        raise ConfigError(problem, hint=f"Reinstall or remove {owner}; see `pefttools doctor`.")

    command.__doc__ = f"Can't be used: {problem}"
    return command
