#!/usr/bin/env bash
# Resolve requirements/*.in into hashed locks: `make lock`. Needs pip; uses uv in a throw-away environment, since it can
# leave out packages that a dependency declares but the hub must not install (overrides.txt).
set -euo pipefail
cd "$(dirname "$0")"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet uv==0.13.8
compile() {
  "$work/venv/bin/uv" pip compile --quiet --generate-hashes --no-annotate --no-header --no-emit-index-url --no-emit-find-links \
    --python-version 3.11 --python-platform x86_64-manylinux_2_28 "$@"
}
torch_source=(--extra-index-url https://download.pytorch.org/whl/cpu)
[ -n "${PIP_FIND_LINKS:-}" ] && torch_source=(--find-links "$PIP_FIND_LINKS")
# What is locked already stays as it is where the .in files allow it.
cat torch-cpu.lock cpu.lock > "$work/cpu.all"
compile cpu.in --override overrides.txt "${torch_source[@]}" --output-file "$work/cpu.all"
# The CPU build of torch comes from another place than the rest, so it is installed on its own.
awk '/^[a-z]/ {torch = /^torch==/} torch' "$work/cpu.all" > torch-cpu.lock
awk '/^[a-z]/ {torch = /^torch==/} !torch' "$work/cpu.all" > cpu.lock
compile cuda.in --override <(grep -v -E '^torch' overrides.txt) --output-file cuda.lock
