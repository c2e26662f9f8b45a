"""Tests against published protocol suites and generated vectors."""
