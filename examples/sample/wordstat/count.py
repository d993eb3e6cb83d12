"""Counting."""

import re
from collections import Counter

# Letters and digits, with apostrophes and hyphens inside.
WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")


def count_words(lines):
    """Returns how often each word occurs in ``lines``, an iterable of texts."""
    counts = Counter()
    for line in lines:
        counts.update(WORD.findall(line))
    return counts
