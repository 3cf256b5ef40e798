"""Layouts of the product that a benchmark can run."""

import argparse

LAYOUTS = {"one process": 1, "two workers": 2, "four processes": 0}
"""Values of STACK_WORKERS by layout: workers that run all four services, or 0 for a process for each service."""


def add_layout_option(parser: argparse.ArgumentParser) -> None:
    """Add `--layout`; without it, one process and four processes are measured."""
    parser.add_argument(
        "--layout",
        nargs="+",
        choices=tuple(LAYOUTS),
        default=("one process", "four processes"),
        help="measure only these layouts (default: one process and four processes)",
    )
