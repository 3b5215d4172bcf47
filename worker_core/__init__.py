"""worker-core: a background worker for LLM jobs on BullMQ queues."""
