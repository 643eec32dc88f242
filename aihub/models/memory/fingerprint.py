"""What tells a model's folder, and the way it is served, from what stood under the same name before."""

import hashlib
from pathlib import Path


def read_fingerprint(folder: Path, *settings: object) -> str:
    """Return a digest over the names, sizes and times of a folder's files and over settings; 32 hexadecimal digits. Blocking.

    Contents are not read, which would take seconds: who replaces a file without a trace in its size and time of change (in ns)
    means to deceive.
    """
    files = sorted((path.name, path.stat()) for path in folder.iterdir() if path.is_file())
    seen = [(name, stat.st_size, stat.st_mtime_ns) for name, stat in files]
    return hashlib.sha256(repr((str(folder), seen, settings)).encode()).hexdigest()[:32]
