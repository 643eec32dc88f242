"""The `aihub` command, one file per command group."""
