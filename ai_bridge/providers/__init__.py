"""Vendors: pure request builders and decoders, and the built-in demo partner."""
