"""Which cases the short draws of the standing proof try."""

import os
from datetime import date


def seed_of_the_day() -> int:
    """``KRONA_SEED`` where it is set; otherwise the date, as 20260131, so that each day tries other cases."""
    return int(os.environ.get("KRONA_SEED") or f"{date.today():%Y%m%d}")
