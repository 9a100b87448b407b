"""Which words a reply or a verdict came from, and how far that answer can be trusted. Knows nothing of the assistant."""

from explain.attribution import Attribution

__all__ = ["Attribution", "attribute"]


def __getattr__(name: str) -> object:
    """`from explain import attribute` loads torch only when it is asked for."""
    if name == "attribute":
        from explain.attributing import attribute

        return attribute
    raise AttributeError(f"module 'explain' has no attribute {name!r}")
