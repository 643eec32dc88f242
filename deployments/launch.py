"""`python -m deployments.launch serve_config.yaml`: refuse typos in the file, then do what `serve run` does."""

import sys
from pathlib import Path

from aihub.errors import HubError


def main() -> None:
    """Check the Serve config strictly and hand it to Ray's own command."""
    from ray.serve.scripts import cli

    from deployments.serve_config import check_serve_config

    path = Path(sys.argv[1])
    try:
        check_serve_config(path)
    except HubError as error:
        sys.exit(f"{type(error).__name__}: {error.message}")
    cli(["run", str(path)])


if __name__ == "__main__":
    main()
