"""`python -m worker_core`."""

from worker_core.cli import main

main()
