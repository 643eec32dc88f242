"""`aihub models`: commands over a running hub or over the state folder."""
