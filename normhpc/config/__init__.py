"""What a run is: typed parts, their defaults and documentation, and the run's identity. Imports no torch."""

from normhpc.config.identity import SCHEMA_VERSION as SCHEMA_VERSION
from normhpc.config.resources import Resources as Resources
from normhpc.config.run import RunConfig as RunConfig
