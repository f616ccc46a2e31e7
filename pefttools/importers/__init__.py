"""Importers: adapters that other programs trained become artifacts. See docs/importing.md."""

from pefttools.importers.importer import Foreign, Importer, importers

__all__ = ["Foreign", "Importer", "importers"]
