"""Every folder and file the program uses outside the tree. Nothing else knows a path.

`PELLUCID_HOME` moves everything below one folder (tests, portable installations).
"""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs

_APP = "pellucid"


def _home() -> Path | None:
    value = os.environ.get("PELLUCID_HOME")
    return Path(value).expanduser() if value else None


def config_file() -> Path:
    """`config.toml`: the user's settings."""
    return (_home() or Path(platformdirs.user_config_dir(_APP))) / "config.toml"


def data_dir() -> Path:
    """What must not be lost: the ledger, the user's own rules and personas."""
    return _home() or Path(platformdirs.user_data_dir(_APP))


def database_file() -> Path:
    """The ledger."""
    return data_dir() / "ledger.db"


def models_dir() -> Path:
    """Fetched models, one file or folder each."""
    return data_dir() / "models"


def cache_dir() -> Path:
    """What can be made again: packed weights, kernel measurements."""
    home = _home()
    return home / "cache" if home else Path(platformdirs.user_cache_dir(_APP))


def state_dir() -> Path:
    """Checkpoints of the ledger kept outside it, drafts, prompt history."""
    home = _home()
    return home / "state" if home else Path(platformdirs.user_state_dir(_APP))
