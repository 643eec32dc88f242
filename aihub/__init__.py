"""AI Hub: the library behind the cluster application.

Plain Python that never imports Ray: importable and testable alone. `pipelines`, `training` and `deployments` build on it.
"""

__version__ = "0.1.0"
