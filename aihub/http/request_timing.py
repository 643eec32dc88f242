"""Where the time of a request went, as headers of its answer."""

from aihub.core.request_record import RequestRecord

QUEUE_HEADER, OVERHEAD_HEADER = b"x-aihub-queue-ms", b"x-aihub-overhead-ms"


def timing_headers(record: RequestRecord) -> list[tuple[bytes, bytes]]:
    """Return the headers of an answer that begins now, both in milliseconds.

    `x-aihub-queue-ms` is the time spent in queues of the hub, loads of models included. `x-aihub-overhead-ms` is what the hub
    itself has taken: the time since the first byte of the request, reading its body included, without that in queues and that
    in engines, the encoder, the recogniser and the recommender. Of a stream, both are told at its begin.
    """
    overhead_s = record.overhead_s
    return [(QUEUE_HEADER, b"%.2f" % (record.queued_s * 1000)), (OVERHEAD_HEADER, b"%.2f" % (overhead_s * 1000))]
