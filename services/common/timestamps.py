"""Unix seconds as the contracts write them."""

from google.protobuf.timestamp_pb2 import Timestamp


def timestamp(seconds: float) -> Timestamp:
    """Return Unix seconds as a protobuf time, to the millisecond."""
    whole, milliseconds = divmod(round(seconds * 1000), 1000)
    return Timestamp(seconds=whole, nanos=milliseconds * 1_000_000)


def unix_seconds(moment: Timestamp) -> float:
    """Return a protobuf time as Unix seconds."""
    return moment.seconds + moment.nanos / 1e9
