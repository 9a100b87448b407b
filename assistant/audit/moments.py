"""Times as a person writes them."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

_AGO = re.compile(r"(\d+)\s*(min|h|d|w)")
_UNIT = {"min": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def microseconds(text: str) -> int:
    """Microseconds since 1970 of a date, a date with time (local), or an age like 7d. Raises ValueError for anything else."""
    age = _AGO.fullmatch(text.strip())
    try:
        moment = datetime.now(UTC) - timedelta(**{_UNIT[age[2]]: int(age[1])}) if age else datetime.fromisoformat(text.strip())
        return int(moment.timestamp() * 1_000_000)
    except (OverflowError, OSError) as error:
        raise ValueError(str(error)) from error
