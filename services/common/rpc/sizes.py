"""Maximum sizes of what gRPC carries, for clients and servers."""

MESSAGE_BYTES_MAX = 16 * 1024 * 1024
"""Maximum size of a message."""
METADATA_BYTES_MAX = 64 * 1024
"""Maximum size of response metadata. gRPC's default of 8 KiB is too small for the `failed_generation` of an error."""
