"""Engines decide how an answer is made; the bridge decides when."""
