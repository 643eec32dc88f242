"""Training jobs on Ray Train and Ray Jobs. The only package that imports `ray.train`."""
