"""`python -m worker_core.testing.fake_engine`: the fake engine as a process of its own."""

from __future__ import annotations

import signal
from typing import Any

import anyio
import attrs
import click

from worker_core.testing.fake_engine.behaviour import Behaviour, FakeModel
from worker_core.testing.fake_engine.server import open_fake_engine

_DEFAULTS = Behaviour()


@click.command(context_settings={"show_default": True})
@click.option("--host", default="127.0.0.1", help="The address to listen on.")
@click.option("--port", default=0, help="The port to listen on; 0 takes a free one.")
@click.option(
    "--model", "models", multiple=True, help="A model to have, instead of the default ones."
)
@click.option("--loaded", multiple=True, help="A model that is in memory at the start.")
@click.option("--parallel", default=_DEFAULTS.parallel, help="Answers at once per chat model.")
@click.option("--max-queue", default=_DEFAULTS.max_queue, help="Requests that may wait for a load.")
@click.option("--max-in-flight", type=int, help="More requests than this at once get a 503.")
@click.option("--load-seconds", default=_DEFAULTS.load_seconds, help="How long a load takes.")
@click.option("--prefill-seconds", default=_DEFAULTS.prefill_seconds, help="To the first token.")
@click.option("--token-seconds", default=_DEFAULTS.token_seconds, help="Between two tokens.")
@click.option("--tokens", type=int, help="Tokens in an answer.")
@click.option("--text", help="The answer to everything, instead of the user's words.")
@click.option("--embed-call-seconds", default=_DEFAULTS.embed_call_seconds, help="Per embed call.")
@click.option("--embed-input-seconds", default=_DEFAULTS.embed_input_seconds, help="Per input.")
def main(host: str, port: int, models: tuple[str, ...], **behaviour: Any) -> None:
    """Serve a fake engine until SIGINT or SIGTERM; the first line printed is its URL."""
    present = tuple(FakeModel.named(name) for name in models) or _DEFAULTS.models
    whole = attrs.evolve(_DEFAULTS, models=present, **behaviour)
    anyio.run(_serve, whole, host, port, backend="trio")


async def _serve(behaviour: Behaviour, host: str, port: int) -> None:
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with open_fake_engine(behaviour, host=host, port=port) as engine:
            click.echo(engine.url)
            async for _ in signals:
                return


if __name__ == "__main__":
    main()
