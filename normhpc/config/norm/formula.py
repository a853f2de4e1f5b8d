"""A norm written as a formula in the sweep file."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from normhpc.config.formula import Binary, Formula, Variable, parse, scopes, written
from normhpc.config.norm.base import ChannelGroups, Scope


class FormulaNorm(ChannelGroups):
    """Whatever ``expr`` says, in the language of docs/norms/formula.md; its scope is the widest of its moments'."""

    name: Literal["formula"] = "formula"
    family = "searched"
    scope = "batch"
    """That of the widest formula; :attr:`reach` is that of this one."""
    formula = "expr * weight + bias"
    reference = "the sweep file itself"

    expr: Annotated[str, AfterValidator(lambda text: written(parse(text)))]
    """The formula, as "x / rms(x, 'instance')". Spaces, quotes and needless parentheses make no difference."""
    momentum: Annotated[float, Field(gt=0, le=1)] = 0.1
    """Weight of the newest batch in the running statistics that evaluation takes for moments over the batch."""
    running: Literal["unbiased", "biased"] = "biased"
    """Whether the running variance follows the biased variance of the batches, as in training, or the unbiased one."""
    sync: bool = False
    """Moments over the batches of all ranks; otherwise every rank takes those of its own share of the batch."""
    affine: bool = True
    """Whether the formula is multiplied by a learned weight per channel, from 1, and a learned bias, from 0, is added."""
    owns_act: bool = False
    """The formula takes the place of the activation too; where the network has none, there is only weight and bias."""

    def tree(self, *, act: bool = True) -> Formula:
        """What is computed, affine and all, where the network has an activation after the norm or has none."""
        inner = parse(self.expr) if act or not self.owns_act else Variable("x")
        return Binary("+", Binary("*", inner, Variable("weight")), Variable("bias")) if self.affine else inner

    @property
    def reach(self) -> Scope:
        """The widest scope of the formula's moments."""
        found = scopes(parse(self.expr))
        if "batch" in found:
            return "batch"
        return "sample" if found - {"pixel"} else "pixel" if found else "value"

    def groups_of(self, channels: int) -> int | None:
        """As for every norm over groups; one, whatever the fields say, for a formula without moments over groups."""
        return super().groups_of(channels) if "group" in scopes(parse(self.expr)) else 1
