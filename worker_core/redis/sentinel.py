"""Sentinel: where the primary is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from worker_core.errors import RedisError, RedisUnavailable, ReplyError
from worker_core.redis.endpoint import Address, Endpoint, Sentinels
from worker_core.redis.searching import Question, Turns

if TYPE_CHECKING:
    from worker_core.redis.resp import Reply
    from worker_core.redis.searching import Search

__all__ = ["PrimarySearcher", "refuse_replica"]

_CREDENTIALS = frozenset({"WRONGPASS", "NOAUTH"})


class PrimarySearcher:
    """Asks the Sentinels in turn; the first that knows the primary is believed."""

    def __init__(self, endpoint: Endpoint, sentinels: Sentinels) -> None:
        self._endpoint = endpoint
        self._sentinels = sentinels
        self._turns = Turns(sentinels.addresses)
        # Apart: taking turns together, each would come to the same half of them again and again.
        self._news_turns = Turns(sentinels.addresses)

    def search(self) -> Search:
        """Find the primary."""
        service = self._sentinels.service
        failures: list[str] = []
        for address in self._turns.next():
            try:
                reply = yield Question(
                    self._at(address), ("SENTINEL", "GET-MASTER-ADDR-BY-NAME", service)
                )
            except RedisError as error:
                failures.append(f"{address}: {_reason(error)}")
                continue
            match reply:
                case [bytes(host), bytes(port)] if port.isdigit():
                    return self._endpoint.at(Address(host.decode("utf-8", "replace"), int(port)))
                case _:
                    failures.append(f"{address} does not watch over {service!r}")
        raise RedisUnavailable(
            f"no Sentinel tells where the primary of {service!r} is: {'; '.join(failures)}"
        )

    def news(self) -> Question:
        """Return the subscription to what a Sentinel says after each failover."""
        return Question(self._at(self._news_turns.next()[0]), ("SUBSCRIBE", "+switch-master"))

    def _at(self, address: Address) -> Endpoint:
        login = self._sentinels.login
        return Endpoint(
            host=address.host,
            port=address.port,
            username=login.username,
            password=login.password,
            tls=self._endpoint.tls,
        )


def _reason(error: RedisError) -> str:
    cause = error.__cause__
    if isinstance(cause, ReplyError) and cause.code in _CREDENTIALS:
        return f"{cause} (check redis.sentinel_username and redis.sentinel_password)"
    return str(error)


def refuse_replica(role: Reply) -> None:
    """Raise `RedisUnavailable` where ROLE's reply is a replica's."""
    match role:
        case [b"slave", *_]:
            raise RedisUnavailable("the server is a read-only replica")
        case _:
            return
