"""What the usage page shows: ranges and filters of its address, sums, charts, CSV and the live list."""
