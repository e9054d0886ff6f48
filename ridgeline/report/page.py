"""One self-contained HTML page from sections: no network, no external file, light and dark.

    page = Page(title="profile of x", verdict="...", facts=(("machine", "H100"),), sections=(...))
    write_text(path, render(page))

A section's body comes from `markup.element`, `tables.*` or `plots.*`, so that every untrusted name
is escaped. What the page's script does, any element gets by its attributes: `data-tip` (text shown
on hover and focus), class "sortable" on a table (cells may carry data-v), `data-filter` on a button
or cell (fills the search field of the table in the same group).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files

from ridgeline.report.markup import Html, element, elided, join

# Nothing is ever loaded; the browser is told so, in case a name should smuggle something in.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """One part of a page. lead: a sentence under the title that says how to read it."""

    id: str
    title: str
    body: Html
    lead: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Sections that belong together, such as one phase on one machine."""

    id: str
    title: str
    verdict: str
    sections: tuple[Section, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """What a page shows: the verdict first, then groups, then sections for all of them.

    notes: warnings that no reader may miss.
    """

    title: str
    verdict: str
    groups: tuple[Group, ...] = ()
    sections: tuple[Section, ...] = ()
    notes: tuple[str, ...] = ()


def render(page: Page) -> str:
    """The page as HTML text."""
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", http_equiv="Content-Security-Policy", content=Html(_POLICY)),
        element("title", page.title),
        element("style", Html(_asset("page.css"))),
    )
    body = element(
        "body",
        _header(page),
        element(
            "main",
            *(_section(s, "h2") for s in page.sections if s.id == "totals"),
            *(_group(g) for g in page.groups),
            *(_section(s, "h2") for s in page.sections if s.id != "totals"),
        ),
        element("div", id="tip", role="tooltip", hidden=True),
        element("script", Html(_asset("page.js"))),
    )
    return f"<!doctype html>\n{element('html', head, body, lang='en')}\n"


def _asset(name: str) -> str:
    return (files("ridgeline.report") / "assets" / name).read_text(encoding="utf-8")


def _header(page: Page) -> Html:
    toggle = element("button", "Dark / light", id="theme", type="button")
    links = [("#" + g.id, g.title) for g in page.groups if len(page.groups) > 1]
    if len(page.groups) == 1:
        links = [("#" + s.id, s.title) for s in page.groups[0].sections]
    links += [("#" + s.id, s.title) for s in page.sections]
    nav = element("nav", *(element("a", text, href=target) for target, text in links))
    return element(
        "header",
        element("div", element("h1", page.title), toggle, class_="bar"),
        element("p", page.verdict, class_="verdict"),
        *(element("p", note, class_="note") for note in page.notes),
        nav,
    )


def _group(group: Group) -> Html:
    return element(
        "section",
        element("h2", group.title),
        element("p", group.verdict, class_="lead") if group.verdict else "",
        *(_section(s, "h3") for s in group.sections),
        id=group.id,
        class_="group",
    )


def _section(section: Section, heading: str) -> Html:
    lead = element("p", section.lead, class_="lead") if section.lead else Html("")
    return element("section", element(heading, section.title), lead, section.body, id=section.id)


def definitions(terms: Sequence[tuple[str, str]]) -> Html:
    """A list of words and what they mean."""
    return element(
        "dl",
        *(join([element("dt", word), element("dd", meaning)]) for word, meaning in terms),
        class_="definitions",
    )


def facts(rows: Sequence[tuple[str, str]]) -> Html:
    """Names and values, two columns."""
    return element(
        "dl",
        *(element("div", element("dt", name), element("dd", value)) for name, value in rows),
        class_="facts",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """A table cell. sort: what it is sorted by; None for its text. share: draws a bar behind it."""

    text: str
    sort: float | None = None
    share: float | None = None
    style: str = ""
    tip: str | None = None


def table(
    headers: Sequence[str],
    rows: Sequence[Sequence[Cell]],
    *,
    is_searchable: bool = False,
    foot: str = "",
) -> Html:
    """A table that sorts by a click on a header; with `is_searchable`, under a search field."""
    numeric = [bool(rows) and rows[0][i].sort is not None for i in range(len(headers))]
    head = element(
        "tr",
        *(
            element("th", element("button", h, type="button"), class_=_head_class(h, is_n))
            for h, is_n in zip(headers, numeric, strict=True)
        ),
    )
    body = join([element("tr", *(_cell(c) for c in row)) for row in rows])
    search = (
        element(
            "input",
            type="search",
            class_="search",
            placeholder="filter: part of a name, op or module",
            aria_label="filter rows",
        )
        if is_searchable
        else Html("")
    )
    caption = element("p", foot, class_="foot") if foot else Html("")
    inner = element("table", element("thead", head), element("tbody", body), class_="sortable")
    return element("div", search, element("div", inner, class_="scroll"), caption, class_="grid")


def _head_class(header: str, is_numeric: bool) -> str | None:
    return "n" if is_numeric else "bound" if header == "bound" else None


def _cell(cell: Cell) -> Html:
    bar = None if cell.share is None else f"--share:{100 * min(1.0, cell.share):.1f}%"
    classes = " ".join(filter(None, ("n" if cell.sort is not None else "", cell.style)))
    classes += " share" if bar else ""
    return element(
        "td",
        elided(cell.text),
        class_=classes.strip() or None,
        data_v=None if cell.sort is None else f"{cell.sort:.6g}",
        data_tip=cell.tip,
        style=bar,
    )
