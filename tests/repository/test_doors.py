"""All functions that destroy a part of a chat are listed here, and each must check first whether a hold protects it."""

import ast
import re
from pathlib import Path

REPOSITORY = Path(__file__).parents[2] / "chat_service" / "repository"

DESTROYS = re.compile(
    r"\b(?:chats|trash|messages|collection)\.(?:delete_one|delete_many|find_one_and_delete)\("
    r"|\"(?:delete|update)\": \"messages\"|\bmessages\.(?:find_one_and_update|update_one|update_many|replace_one)\("
)

CHECKS = re.compile(r"\brefusals?\(")

CHECK_THEMSELVES = {"lifecycle.Lifecycle.delete_again", "messages.Messages.clear"}
"""Functions that check for themselves."""

CHECKED_IN = {
    "lifecycle._remove": "lifecycle._unmet",
    "messages.Messages.edit": "messages.Messages._touch",
    "messages.Messages.delete": "messages.Messages._touch",
}
"""Functions that call another which checks, and that one."""

CHECKED_BY_CALLER = {"erasures.erase_messages": "erasures.Erasures._erase"}
"""Functions whose caller checks, and the caller."""

HARMLESS = {
    "purges.Purges.finish": "removes messages of a deleted chat that its purge has overlooked",
    "lifecycle.restore": "moves a chat from the trash back to the chats",
    "purges.remove_inline": "removes messages of chats whose documents were just removed",
    "purges.Purges.remove": "removes messages that a delete or an emptying has left, which nobody can reach",
}


def functions() -> dict[str, str]:
    """Return the source of every function and method, nested functions included."""
    sources = {}
    for path in REPOSITORY.glob("*.py"):
        text = path.read_text()
        tree = ast.parse(text)
        classes = [node for node in tree.body if isinstance(node, ast.ClassDef)]
        owners = [("", tree), *((f"{node.name}.", node) for node in classes)]
        for prefix, owner in owners:
            for node in owner.body:
                if isinstance(node, ast.FunctionDef):
                    sources[f"{path.stem}.{prefix}{node.name}"] = ast.get_source_segment(text, node) or ""
    return sources


def test_all_destroying_functions_are_listed() -> None:
    destroying = {name for name, source in functions().items() if DESTROYS.search(source)}
    # A replay does not check: it repeats what was allowed, and done, before the database was lost.
    need_check = {name for name in destroying if not name.startswith("replay_effects.")}
    assert need_check - {"unit_of_work.Bound.find_one_and_delete"} == CHECK_THEMSELVES | {
        *CHECKED_IN,
        *CHECKED_BY_CALLER,
        *HARMLESS,
    }


def test_each_of_them_checks_for_holds() -> None:
    sources = functions()
    assert all(
        CHECKS.search(sources[name]) for name in CHECK_THEMSELVES | {*CHECKED_IN.values(), *CHECKED_BY_CALLER.values()}
    )
    for name, caller in CHECKED_BY_CALLER.items():
        assert f"{name.rpartition('.')[2]}(" in sources[caller]
    for name, checker in CHECKED_IN.items():
        assert f"{checker.rpartition('.')[2]}(" in sources[name]
