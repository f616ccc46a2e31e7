"""Importers: turn adapters trained by other programs into artifacts. See docs/importing.md."""

from pefttools.importers.importer import Foreign, Importer, configured_labels, importers

__all__ = ["Foreign", "Importer", "configured_labels", "importers"]
