"""Texts from somebody's file or command line: printable and short, or a path."""

import os
from pathlib import Path


def plain(text, kept=""):
    """Text without control characters and without halves of characters, which no file can hold."""
    return "".join(x if x.isprintable() or x in kept else " " for x in str(text))


def shown(text, limit=120):
    """The same, no longer than it may be."""
    text = plain(text)
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


def path_of(text):
    """The path that was typed: cmd, PowerShell before 7.5, and ``--output=~/x`` leave the ~."""
    return Path(os.path.expanduser(text))


def few(texts, number, separator=", "):
    """The first texts, and how many more there are."""
    more = len(texts) - number
    return separator.join(texts[:number]) + (f"{separator}and {more} more" if more > 0 else "")
