"""Health figures, a verdict in words, and one self-contained page: from a run folder's files, no trainer."""
