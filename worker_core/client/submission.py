"""A job on its way to its queue: its data as strict JSON, its queue by its type. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

import attrs
from cattrs.preconf.orjson import make_converter

from worker_core._bullmq.adding import AddOptions, add
from worker_core._bullmq.keys import QueueKeys
from worker_core.client.errors import InvalidJob
from worker_core.errors import Fault, InvalidRequest
from worker_core.strict_json import Unpublishable, dumps, key_path, loads

if TYPE_CHECKING:
    from worker_core._bullmq.calls import ScriptCall

__all__ = ["DEFAULT_QUEUES", "Submission", "prepare", "write_data"]

DEFAULT_QUEUES: Mapping[str, str] = MappingProxyType(
    {"batch": "llm-batch", "chat": "llm-chat", "embeddings": "llm-embeddings"}
)
"""The queues that the first-party job types consume by default."""

_REPLACEMENT = "\N{REPLACEMENT CHARACTER}".encode()
_converter = make_converter()


@attrs.frozen
class Submission:
    """A job that may be sent."""

    queue: str
    call: ScriptCall
    repeatable: bool
    """Whether sending it twice adds it once: so it is when its producer chose its id."""


def prepare(
    prefix: str, job_type: str, data: object, queue: str | None, options: AddOptions | None
) -> Submission:
    """Return the job ready to be sent; raises `InvalidJob` with every fault of its data."""
    chosen = queue or DEFAULT_QUEUES.get(job_type)
    if chosen is None:
        known = ", ".join(DEFAULT_QUEUES)
        raise InvalidJob(
            [Fault("queue", f"job type {job_type!r} has no default queue ({known} have): name one")]
        )
    if not job_type:
        raise InvalidJob([Fault("type", "must not be empty")])
    written = write_data(data, "data")
    how = options or AddOptions()
    try:
        call = add(QueueKeys(prefix, chosen), job_type, written, how)
    except ValueError as error:  # a colon in the queue's name, half a character in any name
        raise InvalidJob([Fault("", str(error))]) from None
    return Submission(chosen, call, repeatable=how.job_id is not None)


def write_data(data: object, path: str) -> bytes:
    """Write what a worker is to be given; raises `InvalidJob`, naming faults by `path`."""
    wire = _converter.unstructure(data) if attrs.has(type(data)) else data
    try:
        written = dumps(wire)
        if _REPLACEMENT in written:
            # `dumps` mends half a character for those who must answer. Whoever asks is told:
            # a prompt is not changed behind its author's back.
            loads(json.dumps(wire, default=str))
    except Unpublishable as error:
        raise InvalidJob([Fault(path, str(error))]) from None
    except InvalidRequest as error:
        raise InvalidJob(
            [Fault(key_path(path, one.path), one.message) for one in error.faults]
        ) from None
    return written
