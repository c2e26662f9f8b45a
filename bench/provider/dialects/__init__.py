"""The wire formats that the fake service speaks, one module each."""
