"""The rule-based partner behind the demo provider."""
