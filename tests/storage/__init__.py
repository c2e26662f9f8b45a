"""Tests of storage, on every engine."""
