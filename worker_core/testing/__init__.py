"""What plugin authors test with: a real Valkey, a fake engine on real HTTP, a worker.

Installed as a pytest plugin; the fixtures are in `worker_core.testing.fixtures`, and there where
`worker-core[testing]` is.
"""
