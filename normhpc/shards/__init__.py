"""Image sets as HDF5 shards: written by the scripts in ``data_prep/``, read at memory speed. Imports no torch."""

from normhpc.shards.index import Index as Index
from normhpc.shards.index import read_index as read_index
from normhpc.shards.read import Shards as Shards
from normhpc.shards.read import open_shards as open_shards
