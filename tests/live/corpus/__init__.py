"""Wrong requests as data, each with the answer it gets: `name: (request, status, code)`, by what is wrong with them."""

from tests.live.corpus import contents, transport
from tests.live.corpus.raw import Wrong

PARTS = {
    "keys": transport.KEYS,
    "ids": transport.IDS,
    "methods": transport.METHODS,
    "protocol": transport.PROTOCOL,
    "framing": transport.FRAMING,
    "sizes": transport.SIZES,
    "media": contents.MEDIA,
    "json": contents.JSON,
    "fields": contents.FIELDS,
    "queries": contents.QUERIES,
    "bulk": contents.BULK,
    "conditions": contents.CONDITIONS,
    "imports": contents.IMPORTS,
}

WRONG = [Wrong(f"{part}: {name}", *case) for part, cases in PARTS.items() for name, case in cases.items()]
