"""Scenarios, load generators and saved results."""
