"""Tests of server.http, on a whole server with a real listener."""
