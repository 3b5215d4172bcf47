"""How patient clients are where nobody says otherwise."""

from datetime import timedelta

__all__ = ["PATIENCE", "POLL"]

PATIENCE = timedelta(seconds=10)
"""How long an outage of Redis is waited out."""
POLL = timedelta(seconds=5)
"""How often a queue is asked for a job's end, beside listening for it: events can be lost."""
