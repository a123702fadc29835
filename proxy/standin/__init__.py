"""A strict local Amazon ECR: what ECR refuses, it refuses (for the demo and the tests).

Real servers on loopback sockets: registry API and JSON API on one port, a fake S3 on another host
and port. It imports nothing of the proxy but the leaves.
"""

from proxy.standin.faults import Armed, Fault, Faults
from proxy.standin.journal import Recorded
from proxy.standin.server import StandIn
from proxy.standin.settings import Denial, Role, StandInSettings

__all__ = [
    "Armed",
    "Denial",
    "Fault",
    "Faults",
    "Recorded",
    "Role",
    "StandIn",
    "StandInSettings",
]
