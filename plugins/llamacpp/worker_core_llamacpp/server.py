"""The child process: llama.cpp's HTTP server on loopback, `python -m worker_core_llamacpp.server`.

It prints one line of JSON, `{"url": ...}` when it can answer or `{"error": ...}` when it never
will, and ends when its standard input does: so it cannot outlive its parent.
"""

from __future__ import annotations

import json
import os
import sys

import click
import xllamacpp  # type: ignore[import-untyped]  # ships no types

_BATCH_TOKENS = 128


@click.command()
@click.option("--model", required=True, help="The .gguf file.")
@click.option("--context", type=int, required=True, help="Tokens of one conversation.")
@click.option("--parallel", type=int, required=True, help="Answers at once.")
@click.option("--threads", type=int, required=True, help="Processors to compute on.")
def main(model: str, context: int, parallel: int, threads: int) -> None:
    """Serve a model until standard input ends."""
    # Whatever llama.cpp prints goes to stderr: nobody reads the pipe after the first line.
    with os.fdopen(os.dup(1), "w") as parent:
        os.dup2(2, 1)
        try:
            server = _start(model, context, parallel, threads)
        except Exception as error:  # noqa: BLE001  # told to the parent, whatever it is
            told = {"error": f"{type(error).__name__}: {error}"}
        else:
            told = {"url": server.listening_address}
        parent.write(json.dumps(told) + "\n")
    if "url" in told:
        sys.stdin.buffer.read()
    # llama.cpp's threads may be in the middle of an answer that nobody waits for.
    os._exit(0 if "url" in told else 1)


def _start(model: str, context: int, parallel: int, threads: int) -> xllamacpp.Server:
    params = xllamacpp.CommonParams()
    params.model.path = model
    params.n_ctx = context * parallel
    params.n_parallel = parallel
    params.cpuparams.n_threads = threads
    params.cpuparams_batch.n_threads = threads
    params.verbosity = -1
    params.warmup = False
    # One server answers and embeds. Of what a generating model computes, the last token alone
    # stands for all of a text, and so may be computed in pieces; a mean wants a batch as large as
    # the input, and llama.cpp makes the logits of each token of it: 1 GB for 512 of them.
    params.embedding = True
    params.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_LAST
    params.n_batch = params.n_ubatch = max(_BATCH_TOKENS, parallel)
    # Else it keeps the states of past conversations, up to 8 GB of them.
    params.cache_ram_mib = 0
    return xllamacpp.Server(params)


if __name__ == "__main__":
    main()
