"""One run of a sweep, light enough for a million of them."""

from typing import Any

from normhpc.config import Resources
from normhpc.sweep.fragments import POSITION, State
from normhpc.sweep.paths import Path

_SEED = POSITION["seed"]
_RESOURCES = POSITION["resources"]


class Run:
    """A run's id, and everything else about it when asked for."""

    __slots__ = ("_paths", "_states", "run_id", "seed")

    run_id: str
    """16 hex digits, those of the :class:`~normhpc.config.RunConfig`."""
    seed: int

    def __init__(self, run_id: str, seed: int, states: tuple[State, ...], paths: tuple[Path, ...]) -> None:
        self.run_id = run_id
        self.seed = seed
        self._states = states
        self._paths = paths

    @property
    def config_json(self) -> str:
        """The complete configuration, defaults included, as canonical JSON text."""
        return f'{{{"".join([state.full for state in self._states[:_SEED]])}"seed":{self.seed}}}'

    @property
    def resources(self) -> Resources:
        """What the run gets of the cluster or the machine."""
        value: Resources = self._states[_RESOURCES].value
        return value

    @property
    def swept(self) -> dict[str, Any]:
        """The JSON value of every swept path, None where this run's configuration has no such field."""
        return {".".join(path): self.at(path) for path in self._paths}

    def values(self) -> dict[str, Any]:
        """The validated top-level fields, from which to build the :class:`~normhpc.config.RunConfig`."""
        return {state.field: state.value for state in self._states[:_SEED]} | {"seed": self.seed}

    def at(self, path: Path) -> Any:
        """The JSON value at ``path``, a tuple of keys; None where the configuration has no such field."""
        value = self._states[POSITION[path[0]]].json
        for step in path[1:]:
            value = value.get(step) if isinstance(value, dict) else None
        return value
