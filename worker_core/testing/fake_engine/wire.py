"""One client's connection, on h11: requests in, answers out, and every way to break off."""

from __future__ import annotations

import contextlib
import functools
import socket
import struct
from typing import TYPE_CHECKING, NoReturn

import anyio
import attrs
import h11
import orjson
from anyio.abc import SocketAttribute

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from anyio.abc import SocketStream

__all__ = ["ConnectionEnded", "Request", "Responder", "serve_connection"]

_RECEIVE_BYTES = 65536
_JSON = b"application/json; charset=utf-8"
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class ConnectionEnded(Exception):
    """The connection is over: the server ended it, or the client is gone."""


@attrs.frozen
class Request:
    """One request, body and all."""

    method: str
    path: str
    """Without the query."""
    query: str
    headers: tuple[tuple[bytes, bytes], ...]
    """Names in lower case."""
    body: bytes

    def header(self, name: bytes) -> str | None:
        """Return a header's value."""
        return next((value.decode("latin-1") for key, value in self.headers if key == name), None)


class Responder:
    """Writes one answer. Each method raises `ConnectionEnded` when the client is gone."""

    def __init__(self, stream: SocketStream, protocol: h11.Connection, method: str) -> None:
        self._stream = stream
        self._protocol = protocol
        # A HEAD request's answer has the length of the body and not the body.
        self._without_body = method == "HEAD"
        self.status: int | None = None
        """The status sent, once it was sent."""
        self.client_gone = False
        """Whether the client went while this answer was under way."""
        self.broken_off = False
        """Whether the server itself ended the connection."""

    async def json(self, status: int, value: object) -> None:
        """Send a whole answer of JSON."""
        await self.whole(status, orjson.dumps(value))

    async def whole(self, status: int, body: bytes, content_type: bytes = _JSON) -> None:
        """Send a whole answer."""
        self.status = status
        send = self._protocol.send
        parts = [send(_whole_head(status, content_type, len(body)))]
        if body and not self._without_body:
            parts.append(send(h11.Data(data=body)))
        parts.append(send(h11.EndOfMessage()))
        await self._write(parts)

    async def begin_lines(self, lines: list[bytes], content_type: bytes) -> None:
        """Send the head of a stream and its first lines, each as a chunk of its own."""
        self.status = 200
        await self._write([self._protocol.send(_stream_head(content_type)), *self._chunks(lines)])

    async def lines(self, lines: list[bytes]) -> None:
        """Send more lines."""
        await self._write(self._chunks(lines))

    async def end_lines(self, lines: list[bytes]) -> None:
        """Send the last lines and the end of the stream."""
        await self._write([*self._chunks(lines), self._protocol.send(h11.EndOfMessage())])

    async def whole_lines(self, lines: list[bytes], content_type: bytes) -> None:
        """Send a whole stream at once."""
        self.status = 200
        send = self._protocol.send
        head = send(_stream_head(content_type))
        await self._write([head, *self._chunks(lines), send(h11.EndOfMessage())])

    async def close(self) -> NoReturn:
        """End the connection as it stands."""
        self.broken_off = True
        await self._stream.aclose()
        raise ConnectionEnded

    async def reset(self) -> NoReturn:
        """End the connection with a TCP reset: what the client has not read is lost."""
        raw = self._stream.extra(SocketAttribute.raw_socket)  # noqa: S610  # anyio's, not Django's
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        await self.close()

    def _chunks(self, lines: list[bytes]) -> list[bytes | None]:
        return [self._protocol.send(h11.Data(data=line)) for line in lines]

    async def _write(self, parts: Sequence[bytes | None]) -> None:
        try:
            await self._stream.send(b"".join([part for part in parts if part]))
        except (anyio.BrokenResourceError, anyio.ClosedResourceError) as error:
            raise ConnectionEnded from error


class _Connection:
    """Two tasks: the reader, which alone sees that the client goes, and whoever answers."""

    def __init__(
        self, stream: SocketStream, answer: Callable[[Request, Responder], Awaitable[None]]
    ) -> None:
        self._stream = stream
        self._answer = answer
        self._protocol = h11.Connection(h11.SERVER)
        self._arrived = anyio.Event()
        self._gone = False
        self._scope = anyio.CancelScope()
        self._responder: Responder | None = None

    async def serve(self) -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._read)
            with contextlib.suppress(ConnectionEnded, h11.ProtocolError):
                await self._serve_requests()
            tasks.cancel_scope.cancel()

    async def _read(self) -> None:
        try:
            while True:
                self._protocol.receive_data(await self._stream.receive(_RECEIVE_BYTES))
                self._arrived.set()
        except (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
            self._gone = True
            self._arrived.set()
            if self._responder is not None:
                self._responder.client_gone = True
                self._scope.cancel()

    async def _serve_requests(self) -> None:
        while (request := await self._next_request()) is not None:
            self._responder = Responder(self._stream, self._protocol, request.method)
            self._responder.client_gone = self._gone
            with anyio.CancelScope() as self._scope:
                if self._gone:
                    self._scope.cancel()
                await self._answer(request, self._responder)
            self._responder = None
            if self._gone or self._protocol.our_state is not h11.DONE:
                return
            self._protocol.start_next_cycle()

    async def _next_request(self) -> Request | None:
        head: h11.Request | None = None
        body: list[bytes] = []
        while True:
            event = self._protocol.next_event()
            if event is h11.NEED_DATA:
                if self._gone:
                    return None
                await self._wait_for_data()
            elif isinstance(event, h11.Request):
                head = event
            elif isinstance(event, h11.Data):
                body.append(bytes(event.data))
            elif isinstance(event, h11.EndOfMessage) and head is not None:
                target, _, query = head.target.decode("latin-1").partition("?")
                return Request(
                    head.method.decode(), target, query, tuple(head.headers), b"".join(body)
                )
            else:
                return None

    async def _wait_for_data(self) -> None:
        if self._protocol.they_are_waiting_for_100_continue:
            go_on = h11.InformationalResponse(status_code=100, headers=[])
            await self._stream.send(self._protocol.send(go_on) or b"")
        self._arrived = anyio.Event()
        await self._arrived.wait()


async def serve_connection(
    stream: SocketStream, answer: Callable[[Request, Responder], Awaitable[None]]
) -> None:
    """Serve one client until it goes; `answer` is cancelled when it goes before its answer."""
    async with stream:
        await _Connection(stream, answer).serve()


# Heads repeat, and h11 takes longer to check one than to send it.
@functools.lru_cache(maxsize=2048)
def _whole_head(status: int, content_type: bytes, length: int) -> h11.Response:
    return h11.Response(
        status_code=status,
        headers=[(b"Content-Type", content_type), (b"Content-Length", str(length).encode())],
    )


@functools.lru_cache(maxsize=8)
def _stream_head(content_type: bytes) -> h11.Response:
    return h11.Response(
        status_code=200,
        headers=[(b"Content-Type", content_type), (b"Transfer-Encoding", b"chunked")],
    )
