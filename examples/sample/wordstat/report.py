"""Presenting counts."""


def ranked(counts):
    """Returns pairs of word and count: the most frequent first, words of equal count by alphabet."""
    return sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))


def as_text(ranking):
    """Returns one line for each pair, with the counts aligned."""
    width = max((len(str(count)) for _, count in ranking), default=0)
    return "".join(f"{count:>{width}} {word}\n" for word, count in ranking)
