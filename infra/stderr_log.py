"""What libraries of ours log while a command runs belongs on standard error: standard output is the command's answer."""

from __future__ import annotations

import logging
import sys

import structlog


def log_to_stderr() -> None:
    """Warnings and worse, from now on, in this process."""
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
