"""The lifecycle's numbers that are settings."""

from aihub.lifecycle.policy import LifecyclePolicy
from aihub.registry.configuration import HubConfiguration

TICK_S = 4.0
"""Each fifth tick asks Serve's controller which applications run, and measures them."""


def policy_of(configuration: HubConfiguration) -> LifecyclePolicy:
    """Return the policy that these settings ask for."""
    return LifecyclePolicy(
        unload_timeout_s=configuration.model_unload_timeout_s,
        sleep_timeout_s=configuration.model_sleep_timeout_s,
        max_concurrent_models=configuration.max_concurrent_models,
        min_residency_s=configuration.min_residency_s,
        tick_s=TICK_S,
    )
