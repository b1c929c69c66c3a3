"""The paper's numbers as data: its tables, what its text says of them, and independent U-Nets."""

from collections.abc import Sequence
from fnmatch import fnmatchcase
from functools import cache
from importlib.resources import files

import pandas as pd

from dmf.configurations import paper_configurations, parse_configuration
from dmf.outcomes import METRICS

STATISTICS = ("mean", "std", "n")
PAPER_RUNS = 10


@cache
def paper_table(dataset: str) -> pd.DataFrame:
    """Return the paper's table for busi, busc or bus.

    Rows are its 13 configurations, columns (metric, mean | std | n) as in
    :func:`dmf.analysis.tables.mean_scores`: mean ± std of ten runs, in percent.
    """
    numbers = _read("printed_tables.csv")
    numbers = numbers[numbers["dataset"] == dataset]
    names = numbers["auxiliary"] + "-" + numbers["weighting"]
    numbers = numbers.assign(configuration=[parse_configuration(name).name for name in names])
    mean = numbers.pivot(index="configuration", columns="metric", values="mean_percent")
    std = numbers.pivot(index="configuration", columns="metric", values="std_percent")
    table = pd.concat({"mean": mean, "std": std, "n": mean.notna() * PAPER_RUNS}, axis=1)
    columns = pd.MultiIndex.from_product([METRICS, STATISTICS], names=["metric", "statistic"])
    return table.swaplevel(axis=1).reindex(index=paper_configurations(), columns=columns)


def quotes() -> pd.DataFrame:
    """Return the numbers the paper's text gives: place, whose, mean, std (percent), and their role.

    ``role`` is what the text says of the number among the configurations matching ``among``:
    highest, second, lowest, balanced, or nothing.
    """
    return _read("quotes.csv")


def independent() -> pd.DataFrame:
    """Return foreground scores of other authors' networks on BUSI, with protocol and source.

    ``aggregation`` says over what a score is a mean (image, batch), ``left_out`` why a source
    cannot be set beside ours or the paper's; empty for those that can.
    """
    return _read("independent.csv")


def matching(patterns: Sequence[str]) -> list[str]:
    """Return the paper's configurations that match; names without ``*`` stand for themselves.

    ``none-*`` are the adaptive weightings without auxiliary: their fixed sibling is named `fixed`.
    """
    found: list[str] = []
    for pattern in patterns:
        if "*" in pattern:
            found += [name for name in paper_configurations() if fnmatchcase(name, pattern)]
        else:
            found.append(pattern)
    return list(dict.fromkeys(found))


@cache
def _read(name: str) -> pd.DataFrame:
    with files("dmf.analysis.paper").joinpath(name).open(encoding="utf-8") as stream:
        text = dict.fromkeys(["auxiliary", "weighting", "role", "among", "left_out"], str)
        empty = dict.fromkeys(["role", "among", "left_out"], "")
        return pd.read_csv(stream, dtype=text).fillna(empty)
