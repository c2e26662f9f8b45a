"""Tests of the reference clients."""
