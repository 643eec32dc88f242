"""One router per area; routes parse, call a service and render."""
