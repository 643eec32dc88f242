"""Getting models: fetchers of one provider each, and the jobs that run them."""
