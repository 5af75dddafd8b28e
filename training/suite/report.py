"""The results of a suite as a table for a terminal and as Markdown; agents and published baselines as rows."""

from collections.abc import Iterator
from typing import Any

from rich.table import Table

COLUMNS = ("environment", "agent", "return", "score", "MMER", "parameters")
SUMMARY_COLUMNS = ("agent", "score", "MMER score")


def environment_rows(results: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    """Rows of `COLUMNS`: for each environment every agent, and published ones where known (a dash where none is)."""
    for env_id in results["environments"]:
        known = [each for each in results["published"] if _is_known(each["environments"][env_id])]
        for agent in [*results["agents"], *known]:
            values = agent["environments"][env_id]
            numbers = (_mean(values[column]) for column in ("return", "score", "mmer"))
            parameters = values["parameters"]
            yield (env_id, agent["name"], *numbers, "-" if parameters is None else f"{parameters:,}")
        if not known:
            yield (env_id, "published", "-", "-", "-", "-")


def summary_rows(results: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    """Rows of `SUMMARY_COLUMNS`: interquartile means, of agents known on every environment, and of all of ours."""
    for agent in [*results["agents"], *results["published"]]:
        if not agent.get("published") or agent["aggregate"] or agent["aggregate_mmer"]:
            yield (agent["name"], _interval(agent["aggregate"]), _interval(agent["aggregate_mmer"]))


def result_tables(results: dict[str, Any]) -> Iterator[Table | str]:
    """The tables and their legend for a terminal."""
    table = Table(title=f"suite {results['suite']}")
    for column in COLUMNS:
        table.add_column(column, justify="left" if column in ("environment", "agent") else "right", overflow="fold")
    last = None
    for row in environment_rows(results):
        if last not in (None, row[0]):
            table.add_section()
        table.add_row("" if row[0] == last else row[0], *row[1:])
        last = row[0]
    yield table
    summary = Table(title="interquartile mean over environments and seeds")
    for column in SUMMARY_COLUMNS:
        summary.add_column(column, justify="left" if column == "agent" else "right")
    for row in summary_rows(results):
        summary.add_row(*row)
    yield summary
    yield "\n".join(legend(results))


def result_markdown(results: dict[str, Any]) -> str:
    """The tables and their legend as a Markdown document."""
    lines = [f"# Suite {results['suite']}", ""]
    lines += [f"    {results['command']}", ""] if results["command"] else []
    lines += [*_markdown_table(COLUMNS, 2, environment_rows(results)), ""]
    lines += ["Interquartile mean over environments and seeds:", ""]
    lines += [*_markdown_table(SUMMARY_COLUMNS, 1, summary_rows(results)), ""]
    return "\n".join([*lines, *(f"- {line}" for line in legend(results))]) + "\n"


def legend(results: dict[str, Any]) -> list[str]:
    """What the columns mean and how each agent was trained."""
    lines = [
        "return: mean of the deterministic final policy; score: normalised; MMER: highest mean training return of an "
        "epoch of 65,536 steps; in brackets the 95 % stratified bootstrap interval over seeds, where there are several"
    ]
    lines += [f"{agent['name']}: {agent['protocol']}" for agent in results["agents"]]
    published: dict[str, list[str]] = {}
    for agent in results["published"]:
        published.setdefault(f"{agent['protocol']} ({agent['source']})", []).append(agent["name"])
    lines += [f"{', '.join(names)}: {protocol}" for protocol, names in published.items()]
    for agent in results["agents"]:
        lines += [f"{agent['name']}: {env_id} failed: {reason}" for env_id, reason in agent.get("failed", {}).items()]
    return lines


def _is_known(values: dict[str, Any]) -> bool:
    return values["return"] is not None or values["mmer"] is not None


def _markdown_table(columns: tuple[str, ...], left: int, rows: Iterator[tuple[str, ...]]) -> Iterator[str]:
    yield "| " + " | ".join(columns) + " |"
    yield "|" + "|".join(["---"] * left + ["---:"] * (len(columns) - left)) + "|"
    for row in rows:
        yield "| " + " | ".join(row) + " |"


def _mean(summary: dict[str, Any] | None) -> str:
    return "-" if summary is None else f"{summary['mean']:.3f}"


def _interval(summary: dict[str, Any] | None) -> str:
    if summary is None:
        return "-"
    if summary["iqm_low"] is None:
        return f"{summary['iqm']:.3f}"
    return f"{summary['iqm']:.3f} [{summary['iqm_low']:.3f}, {summary['iqm_high']:.3f}]"
