"""`make bench-queue`: the whole worker beside Node BullMQ and the official Python worker.

All peers run in one go, one process each, turn by turn, on a server of their own for each turn.
What runs first is what the machine is at that moment, so a ratio is taken within a round.
"""
