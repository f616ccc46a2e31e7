"""Knowledge: an index of passages, looked up by what they mean."""

from pefttools.knowledge.building import build_index
from pefttools.knowledge.index import Hit, KnowledgeIndex, cited, open_index

__all__ = ["Hit", "KnowledgeIndex", "build_index", "cited", "open_index"]
