"""Metrics whose numbers come from an optional library."""

from __future__ import annotations

from abc import abstractmethod
from functools import cached_property
from typing import Any, ClassVar

from pefttools.errors import ConfigError
from pefttools.metrics.metric import Metric


class OfLibrary(Metric):
    """Such a metric; the library is loaded when it is first needed."""

    #: name of the package
    package: ClassVar[str]

    @abstractmethod
    def _made(self) -> Any:
        """What gives the numbers."""

    @cached_property
    def _library(self) -> Any:
        try:
            return self._made()
        except ModuleNotFoundError as error:
            raise ConfigError(
                f"the metric {self.name!r} needs the package {self.package}", hint='pip install "pefttools[scores]"'
            ) from error

    def ready(self) -> None:
        assert self._library is not None
