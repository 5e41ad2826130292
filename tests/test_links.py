"""Every link of the documentation leads somewhere: to a file that is there, and to a heading that is in it."""

from collections.abc import Iterator
from functools import cache
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

from chat_service.page.guides import slug

FOLDERS = ("docs", "benchmarks", "deploy")


def pages(project: Path) -> list[Path]:
    return [*project.glob("*.md"), *(page for folder in FOLDERS for page in (project / folder).rglob("*.md"))]


@cache
def parsed(page: Path) -> list[Token]:
    return MarkdownIt("commonmark").enable("table").parse(page.read_text())


def links(page: Path) -> Iterator[str]:
    """Yield the targets of a page's links, except those on other hosts."""
    parts = [part for token in parsed(page) for part in token.children or ()]
    targets = [str(part.attrGet("href")) for part in parts if part.type == "link_open"]
    return (target for target in targets if ":" not in target)


def anchors(page: Path) -> set[str]:
    tokens = parsed(page)
    return {slug(tokens[at + 1].content) for at, token in enumerate(tokens) if token.type == "heading_open"}


def leads_nowhere(page: Path, link: str) -> bool:
    path, _, anchor = link.partition("#")
    target = page.parent / path if path else page
    return not target.exists() or (bool(anchor) and anchor not in anchors(target))


def test_every_link_leads_somewhere(project: Path) -> None:
    all_links = [(page, link) for page in pages(project) for link in links(page)]
    assert len(all_links) > 50
    assert [f"{page.relative_to(project)}: {link}" for page, link in all_links if leads_nowhere(page, link)] == []
