"""Words that are made of others: of messages that depend on a number, and names of files."""

from __future__ import annotations

import re


def counted(number: int, noun: str) -> str:
    """Return a number with its noun, whose plural is an s: 1 shard, 2 shards."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def slug(text: str) -> str:
    """Return the text as a file's name: small letters, digits, dots and dashes."""
    return re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-.")
