"""Where the files of `data/` are: beside the packages in a source tree, in `pellucid_data/` once installed from a
wheel."""

from __future__ import annotations

from pathlib import Path

_ROOT = Path(__file__).resolve().parent.parent


def data_path(*parts: str) -> Path:
    """The path of a shipped data file. Raises FileNotFoundError, naming the file, when the installation is
    incomplete."""
    for folder in ("pellucid_data", "data"):
        path = _ROOT.joinpath(folder, *parts)
        if path.exists():
            return path
    raise FileNotFoundError(f"the shipped file data/{'/'.join(parts)} is missing: install Pellucid again")
