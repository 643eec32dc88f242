"""The Ray Serve edge: thin deployments over `aihub` engines and `pipelines`. The only package that imports `ray.serve`."""
