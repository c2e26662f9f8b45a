"""Tests of AI turns and providers."""
