"""The paper's numbers are all there, and patterns name its configurations."""

from dmf.analysis.paper.numbers import independent, matching, paper_table, quotes
from dmf.configurations import paper_configurations


def test_the_papers_tables_are_whole() -> None:
    tables = [paper_table(name) for name in ("busi", "busc", "bus")]
    means = [table.xs("mean", axis=1, level=1) for table in tables]
    assert sum(int(mean.notna().to_numpy().sum()) for mean in means) == 234
    assert tables[0].loc["cb_dice-variance", "dice"].tolist() == [95.22, 0.53, 10]
    assert tables[2].loc["fixed", "recall"].tolist() == [90.93, 0.76, 10]
    for table in tables:
        assert list(table.index) == paper_configurations()
        assert table.notna().all(axis=None)


def test_quotes_and_independent_networks_are_whole() -> None:
    assert set(quotes()["role"]) <= {"", "highest", "lowest", "second", "balanced"}
    others = independent()
    assert others["foreground_dice"].between(0.5, 1).all()
    assert others[["network", "protocol", "source"]].notna().all(axis=None)


def test_patterns() -> None:
    assert matching(["*"]) == paper_configurations()
    assert matching(["none-*"]) == ["none-variance", "none-mad", "none-bayesian"]
    assert matching(["*-mad", "focal-mad", "cb_dice-fixed"])[-1] == "cb_dice-fixed"
    assert len(matching(["*-mad", "focal-mad"])) == 4
