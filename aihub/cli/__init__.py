"""The command line: mounts the commands of the capabilities; starting the hub and its database."""
