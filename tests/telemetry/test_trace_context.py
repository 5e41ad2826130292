"""Which values are valid as `traceparent`, compared with another implementation of the standard."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry import trace
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from chat_service.telemetry.trace_context import trace_id_of

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
VALID = f"00-{TRACE}-00f067aa0ba902b7-01"

PRINTABLE = st.characters(min_codepoint=0x21, max_codepoint=0x7E)
"""The characters inside a header's value, except spaces."""


def trace_id_of_opentelemetry(traceparent: str) -> str | None:
    context = TraceContextTextMapPropagator().extract({"traceparent": traceparent})
    span_context = trace.get_current_span(context).get_span_context()
    return trace.format_trace_id(span_context.trace_id) if span_context.is_valid else None


@pytest.mark.parametrize(
    ("told", "trace_id"),
    [
        (VALID, TRACE),
        (VALID.replace("-01", "-00"), TRACE),
        (VALID.replace("00-4", "cc-4"), TRACE),
        (VALID.replace("00-4", "01-4") + "-what-comes-later", TRACE),
        (VALID + "-what-comes-later", None),
        (VALID.replace("00-4", "01-4") + "without a dash", None),
        (VALID.replace("00-4", "ff-4"), None),
        (VALID.upper(), None),
        (VALID.replace(TRACE, "0" * 32), None),
        (VALID.replace("00f067aa0ba902b7", "0" * 16), None),
        (f"{VALID},{VALID}", None),
        (VALID[:-1], None),
        (VALID + "\n", None),
        (VALID.replace("4", "٤"), None),
        ("", None),
    ],
)
def test_what_the_standard_says(told: str, trace_id: str | None) -> None:
    assert trace_id_of(told) == trace_id


PARTS = (
    ["00", "01", "cc", "ff", "0", "FF", "000"],
    [TRACE, "0" * 32, TRACE.upper(), TRACE[1:], TRACE + "0"],
    ["00f067aa0ba902b7", "0" * 16, "00F067AA0BA902B7", "f067aa0ba902b7"],
    ["01", "00", "ff", "0g", "1"],
    ["", "-", "--", "-more", "more", ",", f",{VALID}"],
)
"""Alternatives for each part, the valid one first; the last list has what may follow the flags."""


@st.composite
def nearly_valid(draw: st.DrawFn) -> str:
    """A valid value with up to two parts changed, and perhaps one character inserted."""
    changed = draw(st.sets(st.integers(0, len(PARTS) - 1), max_size=2))
    *parts, end = (draw(st.sampled_from(part)) if index in changed else part[0] for index, part in enumerate(PARTS))
    text = "-".join(parts) + end
    position = draw(st.integers(0, len(text)))
    return text[:position] + draw(st.sampled_from(["", "", "", "0", "-", "F"])) + text[position:]


@settings(max_examples=300, deadline=None)
@given(st.one_of(nearly_valid(), st.text(PRINTABLE, max_size=80)))
def test_it_agrees_with_another_implementation(traceparent: str) -> None:
    """Both find the same trace id in any value, or none."""
    assert trace_id_of(traceparent) == trace_id_of_opentelemetry(traceparent)
