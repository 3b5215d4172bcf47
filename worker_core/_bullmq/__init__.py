"""The BullMQ protocol: pure building of calls and reading of replies, and the queue on top.

Knows nothing of LLMs, plugins or settings.
"""
