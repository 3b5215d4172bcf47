"""How much later a first token comes through queue and stream than from the engine itself."""
