"""Which words a reply or a verdict came from, and how far that answer can be trusted. Knows nothing of the assistant."""

from explain.attribution import Attribution

__all__ = ["Attribution"]
