"""Where a server is and how to introduce oneself: a URL, taken apart and checked."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

import attrs

from worker_core.errors import ConfigError, Fault

if TYPE_CHECKING:
    from typing import Self

__all__ = ["Endpoint"]

_TCP_SCHEMES = frozenset({"redis", "valkey"})
_UNIX_SCHEMES = frozenset({"unix", "redis+unix", "valkey+unix"})
_TLS_SCHEMES = frozenset({"rediss", "valkeys"})
_FORMS = "redis://[user:password@]host[:6379][/0] or unix:///path/to/socket[?db=0]"
_ENCODING_HINT = (
    "special characters in a password (/ ? # [ ] % and others) must be percent-encoded, or the"
    " password given apart, as REDIS_PASSWORD"
)


def _mask(value: str | None) -> str:
    return "None" if value is None else "'***'"


@attrs.frozen(kw_only=True)
class Endpoint:
    """One server: TCP (`host`, `port`) or, when `path` is set, a Unix socket; `str()` hides the password."""

    host: str = "localhost"
    port: int = 6379
    path: str | None = None
    """The Unix socket; host and port mean nothing when it is set."""
    username: str | None = None
    """The ACL user; `None` is the server's default user."""
    password: str | None = attrs.field(default=None, repr=_mask)
    db: int = 0

    @classmethod
    def from_url(cls, url: str, *, password: str | None = None, name: str = "redis.url") -> Self:
        """Take a URL apart; `password`, if given, replaces the URL's own.

        `name` is what the setting is called in messages. Raises `ConfigError` with the faults
        of the URL. A special character in a password makes its rest the port, path, query or
        fragment, so no message quotes any of these, and nothing behind a wrong port is judged.
        """
        faults: list[str] = []
        parts = _split(url, faults)
        fields = cls()
        if parts is not None:
            own_password = None if parts.password is None else unquote(parts.password)
            fields = attrs.evolve(
                fields,
                username=unquote(parts.username) if parts.username else None,
                password=own_password if password is None else password,
                db=_database(parts, faults),
            )
            if parts.scheme in _UNIX_SCHEMES:
                fields = attrs.evolve(fields, path=_socket_path(parts, faults))
            else:
                fields = attrs.evolve(
                    fields, host=parts.hostname or "localhost", port=parts.port or 6379
                )
        if faults:
            raise ConfigError([Fault(name, fault) for fault in faults])
        return fields

    def __str__(self) -> str:
        user = f"{self.username}@" if self.username else ""
        if self.path is not None:
            return f"unix://{user}{self.path}?db={self.db}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"redis://{user}{host}:{self.port}/{self.db}"


def _split(url: str, faults: list[str]) -> SplitResult | None:
    """The URL's parts, or `None` and a fault where its form is not one of ours."""
    try:
        parts = urlsplit(url)
    except ValueError:  # its text may quote the password
        faults.append(f"not a URL: expected {_FORMS}; {_ENCODING_HINT}")
        return None
    if parts.scheme in _TLS_SCHEMES:
        faults.append(
            f"{parts.scheme}:// asks for TLS, which is not supported yet: use redis:// on a"
            " trusted network, or a TLS tunnel (stunnel, spiped, a service mesh)"
        )
        return None
    # "localhost:6379" parses as the scheme "localhost"; what was meant is said by the forms.
    if parts.scheme not in _TCP_SCHEMES | _UNIX_SCHEMES or not url.startswith(f"{parts.scheme}://"):
        scheme = repr(parts.scheme) if url.startswith(f"{parts.scheme}://") else "none"
        faults.append(f"scheme {scheme} is not known: expected {_FORMS}")
        return None
    if parts.scheme in _TCP_SCHEMES and not _has_good_port(parts):
        faults.append(f"the port is not a number from 1 to 65535; {_ENCODING_HINT}")
        return None
    return parts


def _has_good_port(parts: SplitResult) -> bool:
    try:
        return parts.port != 0
    except ValueError:
        return False


def _socket_path(parts: SplitResult, faults: list[str]) -> str:
    # Whatever stands between the slashes and the path is taken for a host: unix://run/x.sock.
    if parts.hostname or not parts.path.strip("/"):
        faults.append("a socket needs an absolute path with three slashes: unix:///path/to/socket")
    return unquote(parts.path)


def _database(parts: SplitResult, faults: list[str]) -> int:
    """The database's number: `?db=` or, for TCP, the path."""
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    of_path = "" if parts.scheme in _UNIX_SCHEMES else parts.path.strip("/")
    text = query.pop("db", of_path)
    if query:
        faults.append(f"the only option known behind the ? is db; {_ENCODING_HINT}")
    if parts.fragment:
        faults.append(f"nothing may follow a #; {_ENCODING_HINT}")
    if not text:
        return 0
    if text.isascii() and text.isdigit():
        return int(text)
    faults.append(f"the database must be a number from 0, as in /0 or ?db=0; {_ENCODING_HINT}")
    return 0
