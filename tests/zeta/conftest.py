"""Fixtures of the room: a seed drawn anew in every run, and printed."""

from __future__ import annotations

import secrets

import pytest


@pytest.fixture
def fresh_seed():
    """Return a new seed; pytest shows it where the test fails."""
    seed = secrets.randbits(32)
    print(f"seed {seed}")
    return seed
