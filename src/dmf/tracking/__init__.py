"""Run folders into MLflow, by one process.

MLflow is a sink: the run folders stay the record, no training imports it and no step reads it. Its
import takes seconds, so that it happens only when there is something to deliver. What MLflow
receives, and under which names, is described in `docs/tracking.md`.
"""

from dmf.tracking.delivery import Summary, track
from dmf.tracking.stores import server_command, server_environment, tracking_uri

__all__ = ["Summary", "server_command", "server_environment", "track", "tracking_uri"]
