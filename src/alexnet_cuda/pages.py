"""HTML pages that need nothing else: no script, no file beside them, nothing from a server."""

from __future__ import annotations

import base64
import html
import io
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from PIL import Image

from . import charts
from .inference import Images

if TYPE_CHECKING:
    from matplotlib.axes import Axes

THUMBNAIL = 128  # pixels
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"  # a browser then asks no server for anything
STYLE = """
:root{color-scheme:light dark;--text:#1c1e21;--dim:#5c6370;--ground:#fff;--card:#f4f5f7;--line:#d9dce1;--bar:#cbdcf0;
--right:#14602f;--wrong:#b3261e;--link:#0b57d0}
@media(prefers-color-scheme:dark){:root{--text:#e6e7ea;--dim:#a0a6b1;--ground:#121417;--card:#1d2025;--line:#353a42;
--bar:#2f4d70;--right:#6fcf8b;--wrong:#f28b82;--link:#8ab4f8}.chart{filter:invert(1) hue-rotate(180deg)}}
*{box-sizing:border-box}
body{margin:0 auto;padding:1rem;max-width:64rem;font:1rem/1.5 system-ui,sans-serif;color:var(--text);
background:var(--ground);overflow-wrap:anywhere}
a{color:var(--link)}
h1{font-size:1.7rem;line-height:1.2}
h2{font-size:1.25rem;margin:2.5rem 0 .5rem;border-top:1px solid var(--line);padding-top:1rem}
p{max-width:44rem}
nav ul{list-style:none;display:flex;flex-wrap:wrap;gap:.25rem 1rem;margin:1rem 0;padding:0}
figure{margin:0}
figcaption{color:var(--dim);font-size:.875rem}
img{max-width:100%;height:auto;display:block}
.pixels{image-rendering:pixelated}
.scroll{overflow-x:auto}
table{border-collapse:collapse;font-size:.875rem;font-variant-numeric:tabular-nums}
th,td{text-align:left;padding:.25rem 1rem .25rem 0;border-bottom:1px solid var(--line);vertical-align:top}
thead th{vertical-align:bottom;overflow-wrap:normal}
td:not(.number){min-width:5.5rem}
tbody th:not(.number){min-width:6.5rem}
.number{text-align:right}
td.number{white-space:nowrap}
summary{cursor:pointer;padding:.5rem 0}
.charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(20rem,100%),1fr));gap:1rem}
@media(max-width:40rem){th,td{padding-right:.5rem}
.stacked,.stacked thead,.stacked tbody{display:block}
.stacked tr{display:grid;grid-template-columns:repeat(auto-fit,minmax(3.75rem,1fr));gap:0 .5rem;
border-bottom:1px solid var(--line)}
.stacked tr>*{border:0;padding:.125rem 0;min-width:0;white-space:normal;
overflow-wrap:anywhere}.stacked thead{font-size:.75rem}.stacked tr>:first-child{grid-column:1/-1}}
"""


class Html(str):
    """HTML, as opposed to text that stands for itself."""


class Section(NamedTuple):
    """A part of a page under a title of its own."""

    title: str
    content: Html


def tag(name: str, /, *inside: str, **attributes: str | None) -> Html:
    """An element; what is inside is escaped unless it is Html. ``class_`` is its class; None: no such attribute."""
    given = "".join(f' {k.rstrip("_")}="{html.escape(v)}"' for k, v in attributes.items() if v is not None)
    return Html(f"<{name}{given}>" if name in ("img", "meta") else f"<{name}{given}>{joined(*inside)}</{name}>")


def page(title: str, head: Html, sections: Sequence[Section], style: str = "") -> str:
    """A whole page: title, ``head``, a table of contents, the sections; ``style`` is CSS beside that of all pages."""
    meta = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width,initial-scale=1"),
        tag("meta", content=POLICY, **{"http-equiv": "Content-Security-Policy"}),
        tag("title", title),
        tag("style", Html(STYLE + style)),
    )
    entries = (tag("li", tag("a", section.title, href=f"#{_anchor(section)}")) for section in sections)
    contents = tag("nav", tag("ul", *entries), **{"aria-label": "Contents"})
    parts = (tag("section", tag("h2", s.title), s.content, id=_anchor(s)) for s in sections)
    heading = html.escape(title).replace("/", "/<wbr>")  # a path should not be cut within a word
    body = tag("body", tag("main", tag("h1", Html(heading)), head, contents, *parts))
    return "<!doctype html>\n" + tag("html", meta, body, lang="en") + "\n"


def section(title: str, *inside: str) -> Section:
    """A section of what is inside, escaped unless it is Html."""
    return Section(title, joined(*inside))


def joined(*inside: str) -> Html:
    """Elements one after the other; text among them is escaped."""
    return Html("".join(part if isinstance(part, Html) else html.escape(part) for part in inside))


def _anchor(section: Section) -> str:
    return re.sub(r"[^a-z0-9]+", "-", section.title.lower()).strip("-")


def table(
    header: Sequence[str], rows: Iterable[Sequence[str]], numbers: Iterable[int] = (), class_: str | None = None
) -> Html:
    """A table; the columns ``numbers`` are aligned to the right. The first column heads the rows."""
    right = dict.fromkeys(numbers, "number")
    head = [tag("th", cell, scope="col", class_=right.get(i)) for i, cell in enumerate(header)]
    body = []
    for first, *others in rows:
        cells = (tag("td", cell, class_=right.get(i)) for i, cell in enumerate(others, 1))
        body.append(tag("tr", tag("th", first, scope="row", class_=right.get(0)), *cells))
    inside = tag("thead", tag("tr", *head)) if header else "", tag("tbody", *body)
    return tag("div", tag("table", *inside, class_=class_), class_="scroll")


def details(summary: str, *inside: str) -> Html:
    """What is shown once somebody asks for it."""
    return tag("details", tag("summary", summary), *inside)


def chart(size: tuple[float, float], draw: Callable[[Axes], object], alt: str, caption: str = "") -> Html:
    """A figure of that many inches, width and height, on transparent ground, so that it fits a dark page once its
    colours are inverted; where it cannot be drawn, page and command line say so in its place."""
    stream = io.BytesIO()
    try:
        drawn = charts.figure(*size)
        draw(drawn.subplots())
        charts.save(drawn, stream, dpi=200, transparent=True)
    except Exception as e:  # a drawing can fail in many ways, and the page is of use without it
        said = f"{alt}: could not be drawn: {' '.join(str(e).split()) or type(e).__name__}"
        print(said, file=sys.stderr)
        return tag("figure", tag("figcaption", said))
    image = tag("img", src=_uri(stream.getvalue()), alt=alt, width=f"{100 * size[0]:.0f}", class_="chart")
    return tag("figure", image, tag("figcaption", caption) if caption else "")


def picture(image: Images, alt: str) -> Html:
    """An image (H, W, 3) as a thumbnail."""
    small = Image.fromarray(image)
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    kind = "pixels" if max(small.size) <= THUMBNAIL // 2 else None
    size = {"width": str(small.width), "height": str(small.height)}
    return tag("img", src=png(np.asarray(small)), alt=alt, class_=kind, **size)


def png(pixels: Images) -> str:
    """An image (H, W, 3 or 4) as the ``src`` of an ``img``."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "png", optimize=True)
    return _uri(stream.getvalue())


def _uri(content: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(content).decode()
