"""The documentation at `/docs/`: the Markdown of docs/ as HTML, without a network. `/problems` is one page of it.

It exists where the service runs from its repository or its container; a wheel does not contain it.
"""

import posixpath
import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

from flask import Blueprint, Response, abort, make_response, render_template

from chat_service.api.headers import SECURITY
from chat_service.page.docs import FILES, POLICY, give_file

if TYPE_CHECKING:
    from markdown_it.token import Token

blueprint = Blueprint("guides", __name__, template_folder="templates")

FOLDER = Path(__file__).parents[2] / "docs"

INDEX, PROBLEMS = "README", "problems"

_TITLE = re.compile(r"^# (.+)$", re.MULTILINE)

_SCROLLABLE = {"code_block": "code_block", "fence": "code_block", "table_open": "table_open"}
"""Tokens that can be wider than the page, and the type to render each as: a fence has no attributes on its box."""

_NOT_IN_SLUG = re.compile(r"[^\w\- ]")


class Page(NamedTuple):
    """A page as a browser shows it."""

    title: str
    body: str
    """HTML."""


@cache
def names() -> frozenset[str]:
    """Return the names of all pages: their paths in docs/ without the suffix. No other file is read."""
    return frozenset(path.relative_to(FOLDER).with_suffix("").as_posix() for path in FOLDER.rglob("*.md"))


@cache
def read(name: str) -> Page:
    """Return a page, whose name must be one of `names`."""
    from markdown_it import MarkdownIt  # noqa: PLC0415 - not needed before a page is requested

    markdown = MarkdownIt("commonmark", {"html": False}).enable("table")
    text = (FOLDER / f"{name}.md").read_text()
    title = _TITLE.search(text)
    tokens = markdown.parse(text)
    for position, token in enumerate(tokens):
        if token.type == "heading_open":
            token.attrSet("id", slug(tokens[position + 1].content))
        elif token.type in _SCROLLABLE:
            token.attrSet("tabindex", "0")  # so that it can be scrolled with the keyboard
            token.type = _SCROLLABLE[token.type]
        elif token.type == "th_open" and not tokens[position + 1].content:
            token.tag = tokens[position + 2].tag = "td"  # the empty corner of a table is no header
        for part in token.children or ():
            _rewrite_link(part, name)
    return Page(title[1] if title else name, str(markdown.renderer.render(tokens, markdown.options, {})))


def slug(heading: str) -> str:
    """Return the anchor of a heading, as GitHub makes it."""
    return _NOT_IN_SLUG.sub("", heading.lower()).replace(" ", "-")


def _rewrite_link(token: "Token", name: str) -> None:
    """Point a link to another page at its address here; remove the target of a link to a file that is not served."""
    if token.type != "link_open":
        return
    link = urlsplit(str(token.attrGet("href")))
    if link.scheme or not link.path or link.path.startswith("/"):
        return
    target = posixpath.normpath(posixpath.join(posixpath.dirname(name), link.path)).removesuffix(".md")
    if target in names():
        token.attrSet("href", f"/docs/{target}{'#' if link.fragment else ''}{link.fragment}")
    else:
        token.attrs.pop("href")


@blueprint.get("/docs/")
def index() -> Response:
    """Show the list of pages."""
    return _show(INDEX)


@blueprint.get("/docs/<path:name>")
def page(name: str) -> Response:
    """Show a page, or return a file that the pages load."""
    if name in FILES:
        return give_file(FILES[name], name)
    return _show(name)


@blueprint.get("/problems")
def all_problems() -> Response:
    """Show every error: its causes, and what to do."""
    return _show(PROBLEMS)


def _show(name: str) -> Response:
    if name not in names():
        abort(404)
    chapters = [
        (chapter, read(chapter).title) for chapter in sorted(names()) if "/" not in chapter and chapter != INDEX
    ]
    response = make_response(render_template("guide.html", name=name, page=read(name), chapters=chapters))
    response.headers.update({**SECURITY, "Content-Security-Policy": POLICY, "Cache-Control": "no-cache"})
    return response
