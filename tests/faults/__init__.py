"""Tests that kill, cut and delay parts of a running system."""
