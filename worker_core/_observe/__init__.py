"""What the worker says of itself: logs and metrics."""
