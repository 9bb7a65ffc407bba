"""The dashboard as a W&B report, or as a saved view of a W&B workspace."""

import importlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

from smoothscore.errors import UserError
from smoothscore.report.dashboard import GROUPS, Group, Panel

Kind = Literal["report", "view"]
_STEP = "trainer/global_step"  # the axis that Lightning's logger gives every figure; W&B's own counts calls of log
_WIDTH, _HEIGHT, _ROW = 8, 8, 24  # of a panel, and of a row of them, in units of W&B's grid
_ABOUT = "What smoothscore measured of each run, by measure. Panels find figures in any features by their names."


def build_page(
    project: str, *, kind: Kind = "report", entity: str = "", group: str | None = None, title: str | None = None
) -> Any:
    """Make a report, or a view, of a project's runs; nothing is sent, and no server is asked.

    Args:
        project: name of the W&B project.
        kind: "report", a page with text, or "view", a saved workspace.
        entity: who owns the project, a user or a team.
        group: show the runs of one group only.
        title: of the page; default: smoothscore, and the group.

    Returns:
        A `wandb_workspaces.reports.v2.Report` or `wandb_workspaces.workspaces.Workspace`, not yet saved.

    Raises:
        UserError: wandb or wandb-workspaces is not installed; a name that W&B does not take.
    """
    wandb, reports = _library("wandb"), _library("wandb_workspaces.reports.v2")
    _check_names(wandb, project, entity, group)
    if title is None:
        title = "smoothscore" if group is None else f"smoothscore, {group}"
    filters = "" if group is None else f'Metric("Group") == "{_escaped(group)}"'
    if kind == "view":
        workspaces = _library("wandb_workspaces.workspaces")
        view = _named(workspaces.Workspace, kind, entity=entity, project=project, name=title)
        view.sections = [_section(reports, workspaces, part) for part in GROUPS]
        view.settings = workspaces.WorkspaceSettings(x_axis=_STEP)
        view.runset_settings = workspaces.RunsetSettings(filters=filters)
        return view
    report = _named(reports.Report, kind, entity=entity, project=project, title=title)
    report.description, report.width = _ABOUT, "fluid"
    report.blocks = [reports.TableOfContents()]
    for part in GROUPS:
        runs = reports.Runset(name=group or "Run set", filters=filters)  # without a project: of the report's own
        grid = reports.PanelGrid(runsets=[runs], panels=list(_panels(reports, part.panels)))
        report.blocks += [reports.H2(part.title), reports.MarkdownBlock(part.text), grid]
    return report


def page_spec(page: Any) -> dict[str, Any]:
    """What a page consists of, as it would be sent: plain values for JSON."""
    spec: dict[str, Any] = page._to_model().model_dump(mode="json", by_alias=True, exclude_none=True)
    return spec


def save_page(page: Any) -> str:
    """Save a page in its project; where it names no entity, in that of the account.

    Returns:
        Its address.

    Raises:
        UserError: nobody is logged in, there is no such project, or the server refuses or cannot be reached.
    """
    wandb = _library("wandb")
    try:
        api = wandb.Api()
        page.entity = page.entity or api.default_entity or ""
        if not page.entity:
            raise UserError("Your W&B account has no entity of its own: name a user or a team with --entity.")
        # The library would make a project that does not exist, also out of a misspelt name.
        if all(known.name != page.project for known in api.projects(page.entity)):
            raise UserError(
                f"There is no W&B project {page.entity}/{page.project} that you can see: check --project and --entity; "
                "a first run with WandbLogger makes one."
            )
        page.save()
        return str(page.url)
    except wandb.errors.UsageError as error:
        raise UserError(
            f"W&B: {error} WANDB_API_KEY works too; --out FILE.json writes the page without an account."
        ) from error
    except wandb.errors.Error as error:
        raise UserError(f"W&B could not save the page: {error}") from error


def _library(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        package = name.split(".")[0].replace("_", "-")
        raise UserError(f"A W&B page needs {package} ({error}): pip install 'smoothscore[wandb]'.") from error


def _check_names(wandb: Any, project: str, entity: str, group: str | None) -> None:
    """Refuse names before anything is built."""
    if not project.strip():
        raise UserError("--project is empty: give the name of a W&B project, as WandbLogger has it.")
    if group is not None and not group.strip():
        raise UserError("--group is empty: name a group of runs, or leave the option out to show all runs.")
    if "/" in entity or entity != entity.strip():
        raise UserError(f'--entity is "{entity}", but an entity is one user or team: give the project with --project.')
    try:
        wandb.Settings(project=project)  # W&B's own rule for names
    except wandb.errors.UsageError as error:
        raise UserError(f"--project: {error}. For ENTITY/PROJECT give --entity ENTITY --project PROJECT.") from error


def _named(make: Callable[..., Any], kind: Kind, **names: str) -> Any:
    """An empty page, or what is wrong with its title: the other names were looked at before."""
    try:
        return make(**names)
    except ValueError as error:
        title = names.get("title", names.get("name", ""))
        raise UserError(
            f'W&B takes no {kind} with the title "{title}": give a --title of at most 128 letters, digits and '
            "punctuation marks, for a view without symbols."
        ) from error


def _escaped(text: str) -> str:
    """Text for a filter, which the library reads as Python and changes = in: each character by its number."""
    return "".join(c if c.isascii() and c.isalnum() else f"\\U{ord(c):08x}" for c in text)


def _section(reports: Any, workspaces: Any, part: Group) -> Any:
    panels = [reports.MarkdownPanel(markdown=part.text), *_panels(reports, part.panels)]
    columns = _ROW // _WIDTH
    return workspaces.Section(
        name=part.title,
        panels=panels,
        is_open=True,
        layout_settings=workspaces.SectionLayoutSettings(columns=columns, rows=-(-len(panels) // columns)),
        panel_settings=workspaces.SectionPanelSettings(x_axis=_STEP),
    )


def _panels(reports: Any, panels: Sequence[Panel]) -> Iterator[Any]:
    """Panels from left to right, in rows."""
    x = y = 0
    for panel in panels:
        width = _ROW if panel.wide else _WIDTH
        if x + width > _ROW:
            x, y = 0, y + _HEIGHT
        yield _panel(reports, panel, reports.Layout(x=x, y=y, w=width, h=_HEIGHT))
        x += width


def _panel(reports: Any, panel: Panel, layout: Any) -> Any:
    if panel.kind == "pictures":
        return reports.MediaBrowser(title=panel.title, media_keys=list(panel.names), layout=layout)
    if panel.kind == "table":
        return reports.WeavePanelSummaryTable(table_name=panel.names[0], layout=layout)
    chosen = {"metric_regex": panel.pattern} if panel.varying else {"y": list(panel.names)}
    return reports.LinePlot(title=panel.title, x=_STEP, log_y=panel.log or None, layout=layout, **chosen)
