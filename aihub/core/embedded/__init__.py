"""PostgreSQL and Redis without an installation: started on first use, ended with the hub."""
