"""`aihub keys`, `aihub users` and `aihub tenants`: accounts, kept on the hub's machine. Need the database, but no running hub."""
