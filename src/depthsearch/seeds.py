"""Seeds that are made from other numbers."""

from __future__ import annotations

import numpy as np


def seed_from(*numbers: int) -> int:
    """Mix several numbers into one seed, so that neighbouring seeds are unrelated."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])
