#!/usr/bin/env bash
# Say in one line what this machine lacks for an install. Usage: check_machine.sh <python>
set -u
fail() { echo "aihub: $1" >&2; exit 1; }
[ -n "${1:-}" ] || fail "Python 3.11 was not found. Install it (Debian: apt-get install python3.11 python3.11-venv) and run again."
version=$("$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
[ "$version" = 3.11 ] || fail "Python 3.11 is needed, $1 is $version. Run: make serve PYTHON=/path/to/python3.11"
"$1" -c 'import venv, ensurepip' 2>/dev/null || fail "Python's venv module is missing. Install it (Debian: apt-get install python3.11-venv) and run again."
command -v g++ >/dev/null || fail "A C++ compiler is missing. Install one (Debian: apt-get install g++ make) and run again."
free_kb=$(df -Pk . | awk 'NR==2 {print $4}')
if [ ! -d .venv ] && [ "$free_kb" -lt 8000000 ]; then
  fail "Only $((free_kb / 1000000)) GB are free in $(pwd); the packages and models need 8 GB. Free some space and run again."
fi
