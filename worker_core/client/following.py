"""Following a token stream on trio: the iterator that `Client.tokens` returns."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio

from worker_core.client.tokens import Read, TokenChunk, TokenEnd, TokenRestart, TokenStop
from worker_core.errors import RedisUnavailable, ReplyLost

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator
    from types import TracebackType
    from typing import Self

    from worker_core.client.flows import Step
    from worker_core.client.tokens import TokenItem
    from worker_core.redis import BlockingLink

__all__ = ["TokenIterator"]

_MARGIN_SECONDS = 1.0
"""What a reply may need on its way once the server's block time is over."""


class TokenIterator:
    """What a job puts out, item by item, until its end.

    Reading has a connection of its own. It is closed at the end of the stream, by `aclose` (or at
    the end of `async with`) for those who leave earlier, and with the client at the latest.
    """

    def __init__(
        self,
        flow: Generator[Step | TokenItem, object, None],
        carry: Callable[[Step], Awaitable[object]],
        link: BlockingLink,
        *,
        patience: float,
        on_close: Callable[[TokenIterator], None],
    ) -> None:
        self._flow = flow
        self._carry = carry
        self._link = link
        self._patience = patience
        self._on_close = on_close
        self._next: Step | TokenItem | None = None
        self._reply: object = None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> TokenItem:
        while True:
            step = self._next = self._next or await self._advance()
            match step:
                case TokenChunk() | TokenRestart() | TokenStop() | TokenEnd():
                    self._next = self._reply = None
                    return step
                case Read():
                    # Cancelled here, it is read again from where it was.
                    self._reply = await self._read(step)
                case _:
                    self._reply = await self._carry(step)
            self._next = None

    async def _advance(self) -> Step | TokenItem:
        try:
            return self._flow.send(self._reply)
        except StopIteration:
            await self.aclose()
            raise StopAsyncIteration from None
        except Exception:
            await self.aclose()
            raise

    async def _read(self, read: Read) -> object:
        """Make a call that blocks, through an outage as long as the client's patience."""
        outage: float | None = None
        while True:
            try:
                return await self._link.call(*read.args, within=read.seconds + _MARGIN_SECONDS)
            except (RedisUnavailable, ReplyLost) as error:
                # The link itself waits between attempts.
                now = anyio.current_time()
                outage = now if outage is None else outage
                if now - outage >= self._patience:
                    raise RedisUnavailable(
                        f"the token stream could not be read for {self._patience:g} s: {error}"
                    ) from error

    async def aclose(self) -> None:
        """Close the connection; nothing more comes."""
        self._flow.close()
        self._on_close(self)
        await self._link.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()  # noqa: ASYNC102  # close() shields itself and waits for nothing
