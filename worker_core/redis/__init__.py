"""Redis and Valkey for worker-core and its plugins: one shared link, and one for blocking calls."""

from worker_core.redis.blocking import BlockingLink, open_blocking_link
from worker_core.redis.client import Entry, Redis, StreamReader
from worker_core.redis.endpoint import Endpoint
from worker_core.redis.link import Link, LinkState, open_link
from worker_core.redis.options import Backoff, LinkOptions
from worker_core.redis.resp import Arg, Head, Reply
from worker_core.redis.script import Script, ScriptHead
from worker_core.redis.topology import Connector, DirectConnector

__all__ = [
    "Arg",
    "Backoff",
    "BlockingLink",
    "Connector",
    "DirectConnector",
    "Endpoint",
    "Entry",
    "Head",
    "Link",
    "LinkOptions",
    "LinkState",
    "Redis",
    "Reply",
    "Script",
    "ScriptHead",
    "StreamReader",
    "open_blocking_link",
    "open_link",
]
