"""Test vectors for every implementation of the protocol; README.md says how to use them."""

from typing import Final

SPEC_CRC: Final = 3253037019
"""CRC-32 of MANIFEST.json: what `welcome.spec` says. Written by the generator."""
