"""Micro-benchmarks of hot paths: `pytest bench/micro` (never part of the test run)."""
