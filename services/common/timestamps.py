"""Conversion between Unix seconds and protobuf timestamps."""

from google.protobuf.timestamp_pb2 import Timestamp


def timestamp(seconds: float) -> Timestamp:
    """Return Unix seconds as a protobuf timestamp, rounded to milliseconds."""
    whole, milliseconds = divmod(round(seconds * 1000), 1000)
    return Timestamp(seconds=whole, nanos=milliseconds * 1_000_000)


def unix_seconds(moment: Timestamp) -> float:
    """Return a protobuf timestamp as Unix seconds."""
    return moment.seconds + moment.nanos / 1e9
