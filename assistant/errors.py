"""Everything that can go wrong for a user, each with its exit code. The message is one sentence that says what to do next."""

from __future__ import annotations


class PellucidError(Exception):
    """An error to be shown to the user as one line (CLI) or one dialog (TUI)."""

    exit_code = 1


class UsageError(PellucidError):
    """What was asked makes no sense: an option, a setting or an input is wrong."""

    exit_code = 2


class ModelError(PellucidError):
    """The model is missing, damaged, not understood, or does not fit."""

    exit_code = 3


class SafetyUnavailable(PellucidError):
    """The guard could not be loaded, so nothing is generated."""

    exit_code = 3


class LedgerError(PellucidError):
    """The log cannot be opened, read or written."""

    exit_code = 3


class ExplanationError(PellucidError):
    """An explanation cannot be computed for this turn, or would not be true."""

    exit_code = 1
