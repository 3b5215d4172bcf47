"""The nursery tree and what hangs in it: consumers, one job's execution, locks, admission, services."""
