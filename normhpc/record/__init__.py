"""The folder a run writes, and what can be known from it alone. Imports no torch."""

from normhpc.record.folder import RunFolder as RunFolder
from normhpc.record.folder import RunInfo as RunInfo
from normhpc.record.folder import run_folders as run_folders
from normhpc.record.state import IN_FLIGHT as IN_FLIGHT
from normhpc.record.state import SEALED as SEALED
from normhpc.record.state import STATES as STATES
from normhpc.record.state import RunStatus as RunStatus
from normhpc.record.state import State as State
from normhpc.record.state import read_status as read_status
from normhpc.record.state import read_summary as read_summary
from normhpc.record.state import state_with_queue as state_with_queue
from normhpc.record.writer import RecordWriter as RecordWriter
from normhpc.record.writer import append_event as append_event
