"""Importers: adapters that other programs trained become artifacts. See docs/importing.md."""

from pefttools.importers.importer import Foreign, Importer, configured_labels, importers

__all__ = ["Foreign", "Importer", "configured_labels", "importers"]
