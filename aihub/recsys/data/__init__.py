"""The shop's database: its shape, what is read from it, and a made-up one."""
