"""The form every part of a run's configuration takes."""

import re
from typing import Annotated, Any, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from normhpc.errors import did_you_mean


class Part(BaseModel):
    """A frozen, strict piece of configuration: unknown keys, strings for numbers and NaN are errors."""

    model_config = ConfigDict(
        frozen=True, strict=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True
    )


# abs makes -0.0, which passes for a number >= 0, the same value and so the same run as 0.0.
Fraction = Annotated[float, Field(ge=0, lt=1), AfterValidator(abs)]
PositiveFloat = Annotated[float, Field(gt=0)]
NonNegativeFloat = Annotated[float, Field(ge=0), AfterValidator(abs)]
PositiveInt = Annotated[int, Field(ge=1)]
NonNegativeInt = Annotated[int, Field(ge=0)]


class OneOf:
    """Marks a union of parts that is chosen by name: ``Annotated[NoNorm | BatchNorm, OneOf("norm", "batch")]``.

    A bare string is short for ``{"name": string}``; a mapping without a name takes ``default``; a name that
    no part has is refused with the names there are. Parts are told apart by their ``name`` field, a
    ``Literal`` or a string with a pattern (``resnet20``).
    """

    def __init__(self, noun: str, default: str) -> None:
        self.noun = noun
        self.default = default

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        kinds: tuple[type[Part], ...] = get_args(source) or (source,)
        patterns = {kind: re.compile(name_pattern(kind)) for kind in kinds}
        shown = [shown_name(kind) for kind in kinds]

        def kind_of(value: Any) -> str | None:
            if isinstance(value, kinds):
                return type(value).__name__
            name = value.get("name")
            return next(
                (kind.__name__ for kind, names in patterns.items() if isinstance(name, str) and names.fullmatch(name)),
                None,
            )

        def spelled_out(value: Any) -> Any:
            if isinstance(value, str):
                value = {"name": value}
            elif isinstance(value, dict):
                value = {"name": self.default, **value}
            elif not isinstance(value, kinds):
                raise PydanticCustomError(
                    "part_type",
                    "expected the name of {noun} or a mapping with its fields, got {given}",
                    {"noun": _with_article(self.noun), "given": repr(value)},
                )
            if kind_of(value) is None:
                name = value["name"]
                raise PydanticCustomError(
                    "unknown_name",
                    "no {noun} is called {given}{hint} There are: {allowed}",
                    {
                        "noun": self.noun,
                        "given": repr(name),
                        "hint": did_you_mean(name, shown) or ".",
                        "allowed": ", ".join(shown),
                    },
                )
            return value

        choices = {kind.__name__: handler.generate_schema(kind) for kind in kinds}
        union = core_schema.tagged_union_schema(choices, discriminator=kind_of)
        return core_schema.no_info_before_validator_function(spelled_out, union)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        mappings = handler(schema)
        kinds = mappings.get("oneOf") or [mappings]
        names = [{"type": "string", "pattern": f"^({'|'.join(_schema_names(handler, kind) for kind in kinds)})$"}]
        return {"anyOf": [*names, *kinds], "default": self.default}


def _with_article(noun: str) -> str:
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"


def _schema_names(handler: GetJsonSchemaHandler, kind: JsonSchemaValue) -> str:
    name = handler.resolve_ref_schema(kind)["properties"]["name"]
    return re.escape(name["const"]) if "const" in name else str(name["pattern"]).strip("^$")


def name_pattern(kind: type[Part]) -> str:
    """Regular expression of the names that choose ``kind``."""
    field = kind.model_fields["name"]
    if literal := get_args(field.annotation):
        return "|".join(re.escape(str(name)) for name in literal)
    return next(str(constraint.pattern) for constraint in field.metadata if hasattr(constraint, "pattern"))


def shown_name(kind: type[Part]) -> str:
    """The name as an error or a list shows it: the literal, or the placeholder of a family (``resnet{6n+2}``)."""
    field = kind.model_fields["name"]
    literal = get_args(field.annotation)
    return str(literal[0]) if literal else str((field.examples or [kind.__name__])[0])


def outside_identity(default: Any = ...) -> Any:
    """A field that cannot change a result: where files lie, how often to save. It stays out of the run id."""
    return Field(default, json_schema_extra={"identity": False})
