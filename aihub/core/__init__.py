"""What every capability stands on: errors, settings, profiles, files, PostgreSQL, Redis, embedded servers, metrics."""
