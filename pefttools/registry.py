"""Named plugins, found through entry points. Listing names imports nothing of the plugins themselves."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import EntryPoint, distribution, entry_points
from typing import Any, Generic, TypeVar

from pefttools.errors import ConfigError, UnknownNameError

T = TypeVar("T")


@dataclass(frozen=True)
class Origin:
    """Where a plugin comes from: its target `module:attribute` and the distribution that declares it."""

    target: str
    distribution: str
    version: str


class Registry(Generic[T]):
    """Plugins of one kind, e.g. the tuning methods.

    Args:
        group: entry-point group, e.g. ``pefttools.methods``.
        kind: what one plugin is called in messages, e.g. ``method``.
        base: ``module:attribute`` of the class that a plugin must derive from; imported on first use.
        former: group that the entry points used to be in; those still there are found, with a warning.
    """

    def __init__(self, group: str, kind: str, base: str, *, former: str | None = None) -> None:
        self.group = group
        self.former = former
        self.kind = kind
        self._base = base
        self._local: dict[str, type[T]] = {}
        self._points: dict[str, list[EntryPoint]] | None = None

    def names(self) -> list[str]:
        """Names of all plugins, sorted."""
        return sorted({*self._entry_points(), *self._local})

    def __repr__(self) -> str:
        return f"<{self.group}: {', '.join(self.names())}>"

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def __contains__(self, name: object) -> bool:
        return name in self._local or name in self._entry_points()

    def get(self, name: str) -> type[T]:
        """The plugin class called `name`.

        Raises:
            UnknownNameError: no such plugin; the message suggests the nearest names.
            ConfigError: two distributions declare the name, or the plugin can't be imported or is of another kind.
        """
        if name in self._local:
            return self._local[name]
        point = self._point(name)
        try:
            plugin: Any = point.load()
        except Exception as error:
            origin = _origin(point)
            raise ConfigError(
                f"the {self.kind} {name!r} of {origin.distribution} {origin.version} can't be imported "
                f"from {origin.target}: {error}",
                hint=f"Reinstall or remove {origin.distribution}.",
            ) from error
        return self._checked(name, plugin)

    def default(self, purpose: str = "") -> str:
        """Name of the plugin that pefttools uses if the user names none.

        Args:
            purpose: key in the entry-point group ``pefttools.defaults``; empty: the last word of the registry's kind.
        """
        wanted = purpose or self.kind.split()[-1]
        (point,) = distribution("pefttools").entry_points.select(group="pefttools.defaults", name=wanted)
        names = [name for name, points in self._entry_points().items() if point.value in {one.value for one in points}]
        return names[0]

    def origin(self, name: str) -> Origin:
        """Which distribution the plugin comes from."""
        if name in self._local:
            plugin = self._local[name]
            return Origin(f"{plugin.__module__}:{plugin.__qualname__}", "this process", "")
        return _origin(self._point(name))

    def register(self, name: str) -> Callable[[type[T]], type[T]]:
        """Class decorator for use inside one process, e.g. a notebook.

        Raises:
            ConfigError: the name is taken.
        """

        def decorate(plugin: type[T]) -> type[T]:
            taken = self._local.get(name)
            if name in self._entry_points() or (taken is not None and taken.__qualname__ != plugin.__qualname__):
                raise ConfigError(
                    f"the {self.kind} {name!r} exists already (from {self.origin(name).distribution})",
                    hint="Choose another name.",
                )
            self._local[name] = self._checked(name, plugin)
            return plugin

        return decorate

    def unregister(self, name: str) -> None:
        """Forget a plugin that `register` added."""
        if name not in self._local:
            raise UnknownNameError(f"registered {self.kind}", name, self._local)
        del self._local[name]

    def _entry_points(self) -> dict[str, list[EntryPoint]]:
        if self._points is None:
            found: dict[str, list[EntryPoint]] = {}
            for point in entry_points(group=self.group):
                found.setdefault(point.name, []).append(point)
            for point in entry_points(group=self.former) if self.former else ():
                if point.name not in found:
                    warnings.warn(
                        f"{_origin(point).distribution} declares the {self.kind} {point.name!r} in the entry-point "
                        f"group {self.former!r}, which is now called {self.group!r}; the old name will be removed in "
                        "the next minor version",
                        stacklevel=3,
                    )
                    found[point.name] = [point]
            self._points = found
        return self._points

    def _point(self, name: str) -> EntryPoint:
        points = self._entry_points().get(name)
        if not points:
            raise UnknownNameError(self.kind, name, self.names())
        # One distribution may be seen twice (an editable install next to its own metadata): that is not a conflict.
        owners = {(point.value, _origin(point).distribution) for point in points}
        if len(owners) > 1:
            listed = " and ".join(sorted(f"{owner} ({value})" for value, owner in owners))
            raise ConfigError(
                f"the {self.kind} {name!r} is declared by two distributions: {listed}",
                hint="Uninstall one of them.",
            )
        return points[0]

    def _checked(self, name: str, plugin: Any) -> type[T]:
        module, _, attribute = self._base.partition(":")
        base = getattr(importlib.import_module(module), attribute)
        if not (isinstance(plugin, type) and issubclass(plugin, base)):
            raise ConfigError(
                f"the {self.kind} {name!r} is {plugin!r}, which is not a subclass of {module}.{attribute}"
            )
        return plugin


def _origin(point: EntryPoint) -> Origin:
    dist = point.dist
    return Origin(point.value, dist.name if dist else "an unknown distribution", dist.version if dist else "")
