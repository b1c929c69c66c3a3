"""All configurations of a study in one mixed model: what the grid says as a whole.

The score is the configuration's (fixed effect), plus what a seed's split and initial weights give
to all configurations alike (random effect). Runs repeated on another machine add a fixed effect of
the machine and a random one of seed within configuration, so that they count as repetitions of the
same seeds and not as more of them. The answer is for these images under random splits.
"""

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from dmf.configurations import paper_configurations

Array = NDArray[np.float64]

ADAPTIVE_MEAN = "adaptive"
_COLUMNS = ["configuration", "difference", "standard_error", "degrees", "low", "high", "p"]


def mixed_model(machines: Mapping[str, pd.DataFrame], *, confidence: float = 0.95) -> pd.DataFrame:
    """Return every configuration minus fixed weights, and the mean of the paper's adaptive ones.

    ``machines`` maps a name to scores as seeds (rows) by configurations (columns). Columns of the
    result: configuration (:data:`ADAPTIVE_MEAN` for the mean), difference, standard_error, degrees,
    low, high, p. It is empty without fixed weights, without another configuration, or with fewer
    than two seeds. Fitted by restricted maximum likelihood; t has the degrees of freedom of the
    configurations within seeds.
    """
    runs = _runs(machines)
    names = [name for name in dict.fromkeys(runs["configuration"]) if name != "fixed"]
    seeds = runs["seed"].nunique()
    if len(names) == len(set(runs["configuration"])) or not names or seeds < 2:
        return pd.DataFrame(columns=_COLUMNS)
    effects, covariance = _fit(runs, names)
    cells = len(runs.drop_duplicates(["configuration", "seed"]))
    degrees = cells - len(names) - seeds  # of the configurations within seeds
    adaptive = np.array([float(name in paper_configurations()) for name in names])
    contrasts = dict(zip(names, np.eye(len(names)), strict=True))
    if adaptive.any():
        contrasts[ADAPTIVE_MEAN] = adaptive / adaptive.sum()
    rows = []
    for name, weights in contrasts.items():
        value, error = float(weights @ effects), float(np.sqrt(weights @ covariance @ weights))
        half = float(stats.t.ppf((1 + confidence) / 2, degrees)) * error
        p = float(2 * stats.t.sf(abs(value) / error, degrees)) if error > 0 else np.nan
        rows.append((name, value, error, degrees, value - half, value + half, p))
    return pd.DataFrame(rows, columns=_COLUMNS)


def _runs(machines: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Return a row per run: machine, seed, configuration, score."""
    frames = []
    for machine, table in machines.items():
        long = table.rename_axis(index="seed").reset_index()
        long = long.melt("seed", var_name="configuration", value_name="score").dropna()
        frames.append(long.assign(machine=machine))
    empty = pd.DataFrame(columns=["seed", "configuration", "score", "machine"])
    return pd.concat(frames, ignore_index=True) if frames else empty


def _fit(runs: pd.DataFrame, names: list[str]) -> tuple[Array, Array]:
    """Return the effects of ``names`` against fixed weights, and their covariance."""
    from statsmodels.regression.mixed_linear_model import MixedLM  # which takes seconds

    design = pd.DataFrame({name: (runs["configuration"] == name).astype(float) for name in names})
    design.insert(0, "intercept", 1.0)
    others = list(dict.fromkeys(runs["machine"]))[1:]
    for machine in others:
        design[f"machine {machine}"] = (runs["machine"] == machine).astype(float)
    repeated = None
    if others:
        cells = (runs["configuration"] + " " + runs["seed"].astype(str)).to_numpy()
        repeated = _variance_component(cells, runs["seed"].to_numpy())
    with warnings.catch_warnings():
        # A variance that is estimated as zero lies on the edge of what is allowed: no harm.
        warnings.simplefilter("ignore")
        scale = float(runs["score"].std()) or 1.0  # the optimiser's tolerances suit numbers near 1
        model = MixedLM(
            runs["score"].to_numpy() / scale,
            design.to_numpy(),
            runs["seed"].to_numpy(),
            exog_re=np.ones((len(runs), 1)),
            exog_vc=repeated,
        )
        fitted = model.fit(reml=True)
    chosen = slice(1, 1 + len(names))
    covariance = np.asarray(fitted.cov_params())[chosen, chosen]
    return np.asarray(fitted.fe_params)[chosen] * scale, covariance * scale**2


def _variance_component(cells: NDArray[Any], groups: NDArray[Any]) -> object:
    """Return one random effect per cell, as statsmodels wants it: a matrix for each group."""
    from statsmodels.regression.mixed_linear_model import VCSpec

    names, columns, matrices = ["run"], [], []
    for group in np.unique(groups):
        mine = cells[groups == group]
        levels = list(dict.fromkeys(mine))
        columns.append(levels)
        matrices.append((mine[:, None] == np.array(levels)).astype(float))
    return VCSpec(names, [columns], [matrices])
