"""From a YAML file to the runs it declares. Imports no torch."""

from normhpc.sweep.language import Sweep as Sweep
from normhpc.sweep.language import load as load
from normhpc.sweep.runs import Run as Run
