"""How the numbers of the page were made, in short; docs/statistics.md has all of it."""

from dmf.analysis.protocol import departures
from dmf.analysis.verdict.comparisons import FAMILIES
from dmf.analysis.words import count
from dmf.study import ReportParameters


def methods(parameters: ReportParameters) -> list[tuple[str, str]]:
    """Return what was measured, compared and decided, as terms and their descriptions."""
    report, split = parameters.report, parameters.split
    confidence = f"{100 * report.confidence:g} %"
    shares = ", ".join(
        f"{100 * share:.0f} % {name}"
        for name, share in (
            ("training", split.train),
            ("validation", split.validation),
            ("test", split.test),
        )
    )
    interval = (
        "t with the variance of Nadeau and Bengio, since the splits of the seeds overlap"
        if split.per_seed
        else "paired t: one split serves all seeds"
    )
    rows = [
        (
            "Primary outcome",
            "Macro Dice (background and lesion) from counts pooled over the test images, after the "
            "last epoch.",
        ),
        (
            "Sensitivity",
            "The epoch of the best validation CB-Dice; the median over the last fifth of the "
            "epochs; the last weights with recalibrated batch norm.",
        ),
        (
            "Seeds",
            "A seed gives the split, the initial weights and the batch order in every "
            "configuration: differences are paired by seed.",
        ),
        ("Split", f"{split.kind.capitalize()}, {shares}."),
        ("Intervals", f"{confidence}, {interval}. p is adjusted by Holm within each group."),
        ("Planned groups", "; ".join(FAMILIES.values()).capitalize() + "."),
        ("Margin", f"Differences below {100 * report.margin:g} points do not count."),
        (
            "Across sets",
            "Interquartile means with a stratified bootstrap of "
            f"{count(report.bootstrap, 'resample')}: descriptive.",
        ),
        (
            "Plan",
            "Tests and limits were fixed before the runs they judge; `docs/statistics.md` has the "
            "plan, its dated amendment, and what each verdict means.",
        ),
    ]
    if others := departures(parameters):
        rows.append(("Not as in the paper", "; ".join(others) + "."))
    return rows
