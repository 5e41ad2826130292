"""Everything that destroys something of a chat, by name: a new one has to ask what protects it, and to stand here."""

import ast
import re
from pathlib import Path

REPOSITORY = Path(__file__).parents[2] / "chat_service" / "repository"

DESTROYS = re.compile(
    r"\b(?:chats|trash|messages|collection)\.(?:delete_one|delete_many|find_one_and_delete)\("
    r"|\"(?:delete|update)\": \"messages\"|\bmessages\.(?:find_one_and_update|update_one|update_many|replace_one)\("
)

ASKS = re.compile(r"\brefusals?\(")

DOORS = {"lifecycle.Lifecycle.delete_again", "messages.Messages.clear"}
"""These ask for themselves."""

BEHIND = {
    "lifecycle._remove": "lifecycle._unmet",
    "messages.Messages.edit": "messages.Messages._touch",
    "messages.Messages.delete": "messages.Messages._touch",
}
"""These, by who asks for them."""

CALLED = {"erasures.erase_messages": "erasures.Erasures._erase"}
"""These, by who calls them, and asks."""

HARMLESS = {
    "purges.Purges.finish": "what a purge has overlooked of a chat that was deleted",
    "lifecycle.restore": "moves it from the trash back to the chats",
    "purges.remove_inline": "of chats whose documents were just removed",
    "purges.Purges.remove": "what a delete or an emptying has left, which nobody can reach",
}


def functions() -> dict[str, str]:
    """Return the source of every function and method, with those that are defined in it."""
    found = {}
    for path in REPOSITORY.glob("*.py"):
        text = path.read_text()
        tree = ast.parse(text)
        owners = [("", tree), *((f"{one.name}.", one) for one in tree.body if isinstance(one, ast.ClassDef))]
        for prefix, owner in owners:
            for one in owner.body:
                if isinstance(one, ast.FunctionDef):
                    found[f"{path.stem}.{prefix}{one.name}"] = ast.get_source_segment(text, one) or ""
    return found


def test_all_doors_are_known() -> None:
    destroying = {name for name, source in functions().items() if DESTROYS.search(source)}
    # A replay asks nothing: what it does was asked for, and done, before the database was lost.
    found = {name for name in destroying if not name.startswith("replay_effects.")}
    assert found - {"unit_of_work.Bound.find_one_and_delete"} == DOORS | {*BEHIND, *CALLED, *HARMLESS}


def test_each_of_them_asks() -> None:
    sources = functions()
    assert all(ASKS.search(sources[name]) for name in DOORS | {*BEHIND.values(), *CALLED.values()})
    for door, caller in CALLED.items():
        assert f"{door.rpartition('.')[2]}(" in sources[caller]
    for door, asking in BEHIND.items():
        assert f"{asking.rpartition('.')[2]}(" in sources[door]
