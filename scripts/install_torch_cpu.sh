#!/usr/bin/env bash
# Install the CPU build of torch: from pip's configured find-links where there is one, else from PyTorch's own CPU index.
# Usage: install_torch_cpu.sh <python of the environment>
set -u
lock="$(dirname "$0")/../requirements/torch-cpu.lock"
install() { "$1" -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps "${@:2}" -r "$lock"; }
install "$1" 2>/dev/null && exit 0
install "$1" --retries 0 --extra-index-url https://download.pytorch.org/whl/cpu && exit 0
echo "aihub: The CPU build of torch could not be fetched. Check the network, or put its wheel in a folder named by PIP_FIND_LINKS." >&2
exit 1
