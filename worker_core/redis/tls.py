"""TLS towards a server: whom to trust, who we are, and what a failed handshake means.

Certificate and host name are always checked, and nothing switches that off: a server whose
certificate no authority has signed is trusted by naming that very certificate as `tls_ca`.
"""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, NoReturn

import anyio
import anyio.to_thread
import attrs
from anyio.streams.tls import TLSStream

from worker_core.errors import ConfigError, Fault, RedisUnavailable

if TYPE_CHECKING:
    from anyio.abc import ByteStream

__all__ = ["WANTS_CERTIFICATE", "TLSFiles", "describe_tls", "secure"]

WANTS_CERTIFICATE = (
    "if the server wants a certificate of this client, set redis.tls_cert and redis.tls_key"
)

_NAME_MISMATCHES = frozenset({62, 64})
"""OpenSSL's codes for a certificate of another host name and of another IP address."""


@attrs.frozen(kw_only=True)
class TLSFiles:
    """PEM files for TLS; read anew at each connect, for certificates are renewed while we run."""

    ca: str | None = None
    """The authorities to trust, and no others; `None`: the system's."""
    cert: str | None = None
    """Our own certificate, for servers that want one."""
    key: str | None = None
    """Its private key, where that is not in the same file."""

    def context(self) -> ssl.SSLContext:
        """Read the files; raises `ConfigError` with what cannot be used."""
        faults: list[Fault] = []
        context = ssl.create_default_context()
        try:
            context = ssl.create_default_context(cafile=self.ca)
        except (OSError, ValueError) as error:  # ssl's errors are OSErrors
            faults.append(_unusable("redis.tls_ca", error, self.ca))
        # No server of ours needs it, and with it a write may have to wait for a read.
        context.options |= ssl.OP_NO_RENEGOTIATION
        if self.cert is not None:
            try:
                context.load_cert_chain(self.cert, self.key, password=_never_ask)
            except (OSError, ValueError) as error:
                faults.append(_unusable("redis.tls_cert", error, self.cert, self.key))
        elif self.key is not None:
            faults.append(Fault("redis.tls_key", "is of no use without redis.tls_cert"))
        if faults:
            raise ConfigError(faults)
        return context


def _never_ask() -> NoReturn:
    # By default OpenSSL asks for the passphrase on the terminal and waits for it.
    raise ValueError("the key is encrypted: give one without a passphrase")


def _unusable(name: str, error: Exception, *files: str | None) -> Fault:
    shown = " with ".join(repr(file) for file in files if file is not None)
    reason = error.strerror or error if isinstance(error, OSError) else error
    return Fault(name, f"{shown} cannot be used: {reason}")


async def secure(stream: ByteStream, files: TLSFiles, host: str) -> ByteStream:
    """Make a stream a TLS one; raises `RedisUnavailable` that says what is wrong."""
    try:
        # In a thread: reading the system's authorities takes as long as a few hundred calls.
        context = await anyio.to_thread.run_sync(files.context)
        # Redis ends connections without TLS's own farewell.
        return await TLSStream.wrap(
            stream, hostname=host, ssl_context=context, standard_compatible=False
        )
    except ConfigError as error:
        raise RedisUnavailable(str(error)) from error
    except ssl.SSLError as error:
        raise RedisUnavailable(describe_tls(error)) from error
    except anyio.EndOfStream as error:
        raise RedisUnavailable(
            "the server closed the connection during the TLS handshake: if it does not speak TLS,"
            " the URL must begin with redis"
        ) from error


def describe_tls(error: ssl.SSLError) -> str:
    """What a failed handshake means, and what to do."""
    if isinstance(error, ssl.SSLCertVerificationError):
        if error.verify_code in _NAME_MISMATCHES:
            return (
                f"TLS: {error.verify_message}: use a name that the server's certificate has, or"
                " give the server one for this name"
            )
        return (
            f"TLS: the server's certificate is not trusted ({error.verify_message}): name the"
            " authority that signed it in redis.tls_ca"
        )
    # The library's reason is upper case with underscores; None where the system itself failed.
    reason = (error.reason or str(error)).lower()
    if any(sign in reason for sign in ("wrong_version_number", "record_layer_failure")):
        return (
            "the server does not speak TLS: begin the URL with redis instead of rediss, or give"
            " the port on which it does"
        )
    if "certificate" in reason or "unknown_ca" in reason or "handshake_failure" in reason:
        return (
            f"TLS: the server refuses this client ({reason.replace('_', ' ')}): {WANTS_CERTIFICATE}"
        )
    return f"TLS: {reason.replace('_', ' ')}"
