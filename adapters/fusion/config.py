"""Options of AdapterFusion."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from pefttools.errors import ConfigError
from pefttools.methods import MethodConfig

from ..bottleneck import BottleneckAdapters, BottleneckConfig

_FEWEST = 2
#: options that all fused adapters must have in common: those that decide where they are placed
_ALIKE = ("placement", "first_layer", "targets", "inputs")


class FusedAdapter(BottleneckConfig):
    """The options of an adapter that is fused, and where it comes from."""

    digest: str = Field("", description="digest of the adapter's manifest, and so of everything in it")


class FusionOptions(MethodConfig):
    """Options of AdapterFusion."""

    adapters: list[Path] = Field(
        default_factory=list, description="folders of the saved bottleneck adapters, all with the same placement"
    )
    fused: list[FusedAdapter] = Field(
        min_length=_FEWEST,
        description="their options as stored in an artifact; read from `adapters`. On its own: untrained adapters",
    )
    values: bool = Field(True, description="train the values too; false: only how much of each adapter is added")
    regularization: float = Field(
        0.01, ge=0, description="factor of the squared distance between the values' matrices and the identity"
    )

    @model_validator(mode="before")
    @classmethod
    def _read(cls, given: Any) -> Any:
        if not isinstance(given, dict) or (given.get("fused") and not given.get("adapters")):
            return given
        folders = given.get("adapters")
        if not isinstance(folders, list | tuple) or len(folders) < _FEWEST:
            raise ValueError("adapters must name the folders of two or more saved bottleneck adapters")
        return {**given, "fused": [described(Path(folder)) for folder in folders]}

    @model_validator(mode="after")
    def _alike(self) -> FusionOptions:
        first = self.fused[0]
        for number, one in enumerate(self.fused[1:], 2):
            for name in _ALIKE:
                if getattr(one, name) != getattr(first, name):
                    raise ValueError(
                        f"adapter {number} has the {name.replace('_', ' ')} {getattr(one, name)!r}, but the first one "
                        f"{getattr(first, name)!r}: only adapters in the same places can be fused"
                    )
        return self


def described(folder: Path) -> dict[str, Any]:
    """The options of a saved adapter.

    Raises:
        ArtifactError: there is no artifact, or it is damaged.
        ConfigError: it belongs to another method.
    """
    from pefttools.artifact.manifest import read_with_digest

    manifest, digest = read_with_digest(folder)
    if manifest.method.name != BottleneckAdapters.name:
        raise ConfigError(
            f"{folder} is an adapter of the method {manifest.method.name!r}, which can't be fused",
            hint=f"AdapterFusion combines adapters of the method {BottleneckAdapters.name!r}.",
        )
    options = BottleneckAdapters.upgraded(dict(manifest.method.config), manifest.schema_version)
    return {**options, "digest": digest}
