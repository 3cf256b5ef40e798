"""Request processing: lifecycle, upstream calls, concurrency limits, stream buffer and record."""
