"""Recommendations, trending and next item: data types, fit, predict, evaluate. Plain Python; imported by jobs and deployments."""
