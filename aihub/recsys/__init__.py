"""Recommendations, trending and next item: data, training, serving. Plain Python; imported by jobs and deployments."""
