"""Why a model was not fetched.

DownloadError               502  the source failed; a new start goes on where it stopped
├── SourceRefusedError      502  the source will never give this: gone, or it points where the hub does not go
├── CorruptDownloadError    502  what arrived is not what was promised; nothing of it is kept
├── DownloadTimeoutError    504  MODEL_DOWNLOAD_TIMEOUT is over; what arrived is kept
└── DiskFullError           507  not enough free space
"""

from aihub.errors import HubError


class DownloadError(HubError):
    status = 502
    code = "download_failed"
    retryable = True


class SourceRefusedError(DownloadError):
    code = "source_refused"
    retryable = False


class CorruptDownloadError(DownloadError):
    code = "download_corrupt"
    retryable = False


class DownloadTimeoutError(DownloadError):
    status = 504
    code = "download_timeout"
    retryable = False


class DiskFullError(DownloadError):
    status = 507
    code = "disk_full"
    retryable = False
