"""Where the queues' server is, or how it is found, and how to introduce oneself to it."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import attrs

if TYPE_CHECKING:
    from worker_core.redis.tls import TLSFiles

__all__ = ["Address", "ClusterNodes", "Endpoint", "Guides", "Login", "Sentinels"]


def _mask(value: str | None) -> str:
    return "None" if value is None else "'***'"


@attrs.frozen
class Address:
    """A host and a port."""

    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


@attrs.frozen(kw_only=True)
class Login:
    """A user and a password; a user of `None` is the server's default user."""

    username: str | None = None
    password: str | None = attrs.field(default=None, repr=_mask)


@attrs.frozen(kw_only=True)
class Sentinels:
    """Sentinels, and the name by which they watch over the primary; they have a login of their own."""

    addresses: tuple[Address, ...]
    service: str
    login: Login = Login()


@attrs.frozen(kw_only=True)
class ClusterNodes:
    """Nodes of a Cluster that are asked first; they name all others."""

    addresses: tuple[Address, ...]


Guides: TypeAlias = Sentinels | ClusterNodes


@attrs.frozen(kw_only=True)
class Endpoint:
    """One server: TCP (`host`, `port`), a Unix socket (`path`), or what `guides` lead to.

    `str()` is the URL without the password.
    """

    host: str = "localhost"
    port: int = 6379
    path: str | None = None
    """The Unix socket; host and port mean nothing when it is set."""
    guides: Guides | None = None
    """Who knows the server; host and port mean nothing when it is set."""
    username: str | None = None
    """The ACL user; `None` is the server's default user."""
    password: str | None = attrs.field(default=None, repr=_mask)
    db: int = 0
    tls: TLSFiles | None = None
    """`None`: no TLS. Sentinels and the nodes of a Cluster are spoken to in the same way."""

    @staticmethod
    def from_url(
        url: str,
        *,
        password: str | None = None,
        tls: TLSFiles | None = None,
        sentinel: Login | None = None,
        name: str = "redis.url",
    ) -> Endpoint:
        """Take a URL apart; `password`, if given, replaces the URL's own.

        `tls` are the files for a URL that asks for TLS; `sentinel` is how to sign in to Sentinels.
        `name` is what the setting is called in messages. Raises `ConfigError` with the faults of
        the URL.
        """
        # Only here: it makes what this module declares.
        from worker_core.redis.urls import parse_url  # noqa: PLC0415

        endpoint = parse_url(url, tls=tls, sentinel=sentinel, name=name)
        return endpoint if password is None else attrs.evolve(endpoint, password=password)

    @property
    def address(self) -> Address:
        """Host and port."""
        return Address(self.host, self.port)

    def at(self, address: Address) -> Endpoint:
        """Return one server of those that the guides know, introduced to in the same way."""
        return attrs.evolve(self, host=address.host, port=address.port, path=None, guides=None)

    def __str__(self) -> str:
        user = f"{self.username}@" if self.username else ""
        if self.path is not None:
            return f"unix://{user}{self.path}?db={self.db}"
        scheme = "redis" if self.tls is None else "rediss"
        match self.guides:
            case Sentinels(addresses=addresses, service=service):
                hosts = ",".join(map(str, addresses))
                return f"{scheme}+sentinel://{user}{hosts}/{service}/{self.db}"
            case ClusterNodes(addresses=addresses):
                hosts = ",".join(map(str, addresses))
                return f"{scheme}+cluster://{user}{hosts}/{self.db}"
            case None:
                return f"{scheme}://{user}{self.address}/{self.db}"
