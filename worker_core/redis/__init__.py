"""Redis and Valkey for worker-core and its plugins: one shared link, and one for blocking calls."""

from worker_core.redis.blocking import BlockingLink, open_blocking_link
from worker_core.redis.client import Entry, Redis, StreamReader
from worker_core.redis.cluster import WrongServer
from worker_core.redis.connecting import connector_to
from worker_core.redis.endpoint import Address, ClusterNodes, Endpoint, Login, Sentinels
from worker_core.redis.link import Link, LinkState, open_link
from worker_core.redis.options import Backoff, LinkOptions
from worker_core.redis.resp import Arg, Head, Reply
from worker_core.redis.script import Script, ScriptHead
from worker_core.redis.subscription import Subscription
from worker_core.redis.tls import TLSFiles
from worker_core.redis.topology import Connector, DirectConnector

__all__ = [
    "Address",
    "Arg",
    "Backoff",
    "BlockingLink",
    "ClusterNodes",
    "Connector",
    "DirectConnector",
    "Endpoint",
    "Entry",
    "Head",
    "Link",
    "LinkOptions",
    "LinkState",
    "Login",
    "Redis",
    "Reply",
    "Script",
    "ScriptHead",
    "Sentinels",
    "StreamReader",
    "Subscription",
    "TLSFiles",
    "WrongServer",
    "connector_to",
    "open_blocking_link",
    "open_link",
]
