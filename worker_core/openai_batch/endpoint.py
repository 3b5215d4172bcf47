"""The endpoints of OpenAI's API that a batch may be for."""

from __future__ import annotations

import enum

__all__ = ["Endpoint"]


class Endpoint(enum.Enum):
    """Where each request of a batch would be posted to."""

    CHAT = "/v1/chat/completions"
    EMBEDDINGS = "/v1/embeddings"

    @property
    def job_type(self) -> str:
        """The job type that answers such requests here."""
        match self:
            case Endpoint.CHAT:
                return "chat"
            case Endpoint.EMBEDDINGS:
                return "embeddings"
