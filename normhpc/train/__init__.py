"""Training: functions over small dataclasses."""

from normhpc.train.fused import run_together as run_together
from normhpc.train.loop import Interrupted as Interrupted
from normhpc.train.loop import run as run
from normhpc.train.stop import StopRequest as StopRequest
from normhpc.train.stop import stop_on_signals as stop_on_signals
