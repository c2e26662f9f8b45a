"""Tests of the whole program through real sockets."""
