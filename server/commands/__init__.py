"""One file per subject of the command line; each adds its commands by `add_to`."""
