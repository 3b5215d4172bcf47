"""`make bench-embeddings`: embeddings a second, micro-batched beside one call a job.

On the fake engine (2 ms a call, 0.2 ms an input, one call of a model at a time, as Ollama does it),
also beside a Node BullMQ worker that calls the same server; and on the embedded llama.cpp.
"""
