"""The names of configurations: what they stand for, and which there are.

A name is `<auxiliary>-<weighting>`, `fixed` or `cross_entropy`. `none-fixed` also means `fixed`,
and a study knows it by the latter alone.
"""

import difflib
from typing import Literal

from dmf.settings import Settings

AUXILIARIES = ("none", "tversky", "focal", "cb_dice")
PAPER_WEIGHTINGS = ("variance", "mad", "bayesian")
EXTRA_WEIGHTINGS = ("fixed", "random", "softadapt", "cov")
# After a weighting: its weights smoothed with an exponential moving average (fusion.smoothing).
SMOOTHED = "_ema"


class Configuration(Settings):
    """One way to weight the losses: `<auxiliary>-<weighting>`, `fixed` or `cross_entropy`."""

    name: str
    auxiliary: Literal["none", "tversky", "focal", "cb_dice"]
    weighting: Literal["variance", "mad", "bayesian", "fixed", "random", "softadapt", "cov"]
    smoothed: bool = False
    only_cross_entropy: bool = False

    @property
    def factors(self) -> tuple[str, str]:
        """Auxiliary and weighting, as tables have them: the pair tells configurations apart.

        A smoothed weighting keeps its `_ema`; cross-entropy alone is a weighting of its own.
        """
        if self.only_cross_entropy:
            return "none", "cross_entropy"
        return self.auxiliary, self.weighting + (SMOOTHED if self.smoothed else "")


def parse_configuration(name: str) -> Configuration:
    """Return the configuration that ``name`` stands for; raises ValueError for an unknown name.

    Its own name is the canonical one: `fixed` for `none-fixed`, any other as it is.
    """
    if name == "cross_entropy":
        return Configuration(
            name=name, auxiliary="none", weighting="fixed", only_cross_entropy=True
        )
    if name == "none-fixed":
        name = "fixed"
    auxiliary, _, weighting = ("none-fixed" if name == "fixed" else name).partition("-")
    smoothed = weighting.endswith(SMOOTHED)
    weighting = weighting.removesuffix(SMOOTHED)
    if (
        auxiliary not in AUXILIARIES
        or weighting not in PAPER_WEIGHTINGS + EXTRA_WEIGHTINGS
        or (smoothed and weighting == "fixed")
    ):
        close = difflib.get_close_matches(name, known_configurations(), n=1)
        raise ValueError(
            f"unknown configuration {name!r}"
            + (f" (did you mean {close[0]!r}?)" if close else "")
            + f". Allowed: fixed, cross_entropy, or <auxiliary>-<weighting> with auxiliary one of "
            f"{', '.join(AUXILIARIES)} and weighting one of "
            f"{', '.join(PAPER_WEIGHTINGS + EXTRA_WEIGHTINGS)}, each but fixed also with {SMOOTHED}"
        )
    return Configuration.model_validate(
        {"name": name, "auxiliary": auxiliary, "weighting": weighting, "smoothed": smoothed}
    )


def factors(name: str) -> tuple[str, str]:
    """Return auxiliary and weighting of a configuration's name; raises ValueError if unknown."""
    return parse_configuration(name).factors


def known_configurations() -> list[str]:
    """Return every configuration by its canonical name."""
    weightings = [*PAPER_WEIGHTINGS, *EXTRA_WEIGHTINGS]
    weightings += [w + SMOOTHED for w in weightings if w != "fixed"]
    pairs = (f"{a}-{w}" for a in AUXILIARIES for w in weightings)
    return ["fixed", "cross_entropy", *(name for name in pairs if name != "none-fixed")]


def paper_configurations() -> list[str]:
    """Return the paper's 13 configurations in the order of its tables."""
    order = ("tversky", "focal", "cb_dice", "none")
    return [*(f"{a}-{w}" for a in order for w in PAPER_WEIGHTINGS), "fixed"]
