"""URLs, taken apart and checked: one server, Sentinels, or nodes of a Cluster; each with TLS or not.

A special character in a password makes its rest a host, a port, a path, a query or a fragment. So no
message quotes any of these, and nothing behind a wrong host or port is judged.
"""

from __future__ import annotations

import re
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

import attrs

from worker_core.errors import ConfigError, Fault
from worker_core.redis.endpoint import Address, ClusterNodes, Endpoint, Login, Sentinels
from worker_core.redis.tls import TLSFiles

__all__ = ["parse_url"]

_PLAIN = ("redis", "valkey")
_TLS = ("rediss", "valkeys")
_TCP_SCHEMES = frozenset(_PLAIN + _TLS)
_UNIX_SCHEMES = frozenset({"unix", "redis+unix", "valkey+unix"})
_SENTINEL_SCHEMES = frozenset(f"{scheme}+sentinel" for scheme in _PLAIN + _TLS)
_CLUSTER_SCHEMES = frozenset(f"{scheme}+cluster" for scheme in _PLAIN + _TLS)
_TLS_SCHEMES = frozenset(
    scheme
    for scheme in _TCP_SCHEMES | _SENTINEL_SCHEMES | _CLUSTER_SCHEMES
    if scheme.startswith(_TLS)
)
_SCHEMES = _TCP_SCHEMES | _UNIX_SCHEMES | _SENTINEL_SCHEMES | _CLUSTER_SCHEMES

_PORT = 6379
_SENTINEL_PORT = 26379

_FORMS = (
    "redis://[user:password@]host[:6379][/0], redis+sentinel://host[:26379],host.../service[/0],"
    " redis+cluster://host[:6379],host... (rediss for TLS), or unix:///path/to/socket[?db=0]"
)
_ENCODING_HINT = (
    "special characters in a password (/ ? # [ ] % and others) must be percent-encoded, or the"
    " password given apart, as REDIS_PASSWORD"
)
_SLASHES = "a socket needs an absolute path with three slashes: unix:///path/to/socket"


def parse_url(url: str, *, tls: TLSFiles | None, sentinel: Login | None, name: str) -> Endpoint:
    """Return what a URL leads to; raises `ConfigError` with its faults, under `name`."""
    faults: list[str] = []
    endpoint = _parse(url, tls, sentinel or Login(), faults)
    if faults:
        raise ConfigError([Fault(name, fault) for fault in faults])
    return endpoint


@attrs.frozen
class _Parts:
    """A URL's parts; `urlsplit` knows of one host only, and here there may be several."""

    scheme: str
    hosts: tuple[Address, ...]
    rest: SplitResult
    """User, path, query and fragment."""


def _parse(url: str, tls: TLSFiles | None, sentinel: Login, faults: list[str]) -> Endpoint:
    parts = _split(url, faults)
    if parts is None:
        return Endpoint()
    rest = parts.rest
    if parts.scheme in _TLS_SCHEMES:
        tls = tls or TLSFiles()
    elif tls is not None:
        faults.append(
            "files for TLS are given, but the URL asks for none: begin it with"
            f" {_secured(parts.scheme)}://"
        )
    endpoint = Endpoint(
        username=unquote(rest.username) if rest.username else None,
        password=None if rest.password is None else unquote(rest.password),
        tls=tls,
    )
    if parts.scheme in _UNIX_SCHEMES:
        return attrs.evolve(
            endpoint, path=_socket_path(rest, faults), db=_database("", rest, faults)
        )
    path = rest.path.strip("/")
    if parts.scheme in _SENTINEL_SCHEMES:
        service, _, path = path.partition("/")
        # Its form is Sentinel's own rule. The text may be the rest of a password.
        if not re.fullmatch(r"[A-Za-z0-9._-]+", service):
            faults.append(
                "the path must begin with the name that the Sentinels watch over, as in"
                f" redis+sentinel://host:26379/mymaster; {_ENCODING_HINT}"
            )
        guides = Sentinels(addresses=parts.hosts, service=service, login=sentinel)
        return attrs.evolve(endpoint, guides=guides, db=_database(path, rest, faults))
    db = _database(path, rest, faults)
    if parts.scheme in _CLUSTER_SCHEMES:
        return attrs.evolve(endpoint, guides=ClusterNodes(addresses=parts.hosts), db=db)
    [address] = parts.hosts
    return attrs.evolve(endpoint, host=address.host, port=address.port, db=db)


def _secured(scheme: str) -> str:
    base, plus, topology = scheme.partition("+")
    return "rediss" if scheme in _UNIX_SCHEMES else f"{base}s{plus}{topology}"


def _split(url: str, faults: list[str]) -> _Parts | None:
    """The URL's parts, or `None` and a fault where its form is not one of ours."""
    scheme, mark, after = url.partition("://")
    scheme = scheme.lower()
    # "localhost:6379" has no scheme; what was meant is said by the forms.
    if not mark or scheme not in _SCHEMES:
        known = repr(scheme) if mark and re.fullmatch(r"[a-z][a-z0-9+.-]*", scheme) else "none"
        faults.append(f"scheme {known} is not known: expected {_FORMS}")
        return None
    authority = re.split(r"[/?#]", after, maxsplit=1)[0]
    user, at, hosts = authority.rpartition("@")
    try:
        # An empty host stands in for them all: what is left is what urlsplit is good at.
        rest = urlsplit(f"{scheme}://{user}{at}{after[len(authority) :]}")
        if scheme in _UNIX_SCHEMES:
            # Whatever stands between the slashes and the path is a host: unix://run/x.sock.
            if hosts:
                faults.append(_SLASHES)
            return _Parts(scheme, (), rest)
        names = [hosts] if scheme in _TCP_SCHEMES else hosts.split(",")
        addresses = tuple(_address(one, scheme, faults) for one in names)
    except ValueError:  # its text may quote the password
        faults.append(f"not a URL: expected {_FORMS}; {_ENCODING_HINT}")
        return None
    if faults:
        return None
    return _Parts(scheme, addresses, rest)


def _address(text: str, scheme: str, faults: list[str]) -> Address:
    """One host with or without its port; raises `ValueError` for brackets that do not match."""
    parts = urlsplit(f"//{text}")
    default = _SENTINEL_PORT if scheme in _SENTINEL_SCHEMES else _PORT
    try:
        port = parts.port
    except ValueError:
        port = 0
    if port == 0:
        fault = f"the port is not a number from 1 to 65535; {_ENCODING_HINT}"
        if fault not in faults:
            faults.append(fault)
    elif not parts.hostname and scheme not in _TCP_SCHEMES:
        faults.append(f"a host is missing: expected {_FORMS}; {_ENCODING_HINT}")
    return Address(parts.hostname or "localhost", port or default)


def _socket_path(parts: SplitResult, faults: list[str]) -> str:
    if not parts.path.strip("/") and _SLASHES not in faults:
        faults.append(_SLASHES)
    return unquote(parts.path)


def _database(of_path: str, parts: SplitResult, faults: list[str]) -> int:
    """The database's number: `?db=`, or else what the path has."""
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
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
