"""Counts the words of texts."""

from wordstat.count import count_words
from wordstat.report import as_text, ranked

__all__ = ["as_text", "count_words", "ranked"]
