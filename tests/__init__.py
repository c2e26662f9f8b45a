"""Tests; the folders mirror the import packages."""
