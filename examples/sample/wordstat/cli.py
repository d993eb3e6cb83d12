"""The command."""

import argparse
import sys

from wordstat.count import count_words
from wordstat.report import as_text, ranked


def parser():
    """Returns the parser of the command line."""
    result = argparse.ArgumentParser(prog="wordstat", description="Count the words of texts.")
    result.add_argument("files", nargs="*", metavar="FILE", help="texts; standard input when there are none")
    return result


def lines(files):
    """Yields the lines of all files, or of standard input."""
    if not files:
        yield from sys.stdin
    for name in files:
        with open(name, encoding="utf-8", errors="replace") as file:
            yield from file


def main(arguments=None):
    """Runs the command and returns its exit code: 0, or 1 when a file cannot be read."""
    options = parser().parse_args(arguments)
    try:
        counts = count_words(lines(options.files))
    except OSError as error:
        print(f"wordstat: {error.filename}: {error.strerror}", file=sys.stderr)
        return 1
    sys.stdout.write(as_text(ranked(counts)))
    return 0
