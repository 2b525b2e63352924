"""The page of a preview, as text; and several previews beside each other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from lr_plugins.simulation.chart import chart, only_ascii, terminal_width
from lr_plugins.simulation.lines import Event, Line
from lr_plugins.simulation.warnings import length

if TYPE_CHECKING:
    from lr_plugins.simulation.preview import Preview

_AT_ONCE = 4  # consecutive events of the same kind; of more, only the first ones and the last are shown


def page(preview: Preview, width: int | None = None, log: bool = False, ascii: bool | None = None) -> str:
    """Chart, table, sums and warnings of a preview (see `Preview.page`)."""
    width = terminal_width() if width is None else width
    ascii = only_ascii() if ascii is None else ascii
    run = preview.run
    parts = [_labelled([("run", _length(preview)), *(("", note) for note in preview.notes)])]
    for quantity in dict.fromkeys(line.name.partition("/")[0] for line in preview.lines):
        lines = {line.name: line for line in preview.lines if line.name.partition("/")[0] == quantity}
        head = "" if quantity == "lr" else f"{quantity}\n"
        parts.append(head + chart(lines, int(run.steps or 0), run.steps_per_epoch, width, log=log, ascii=ascii))
        for name, line in lines.items():
            parts.append("\n".join(_table(line, name if len(preview.lines) > 1 else "lr")))
            parts.append(_labelled(list(_sums(line))))
    if preview.warnings:
        parts.append(_labelled([("warning", line) for line in preview.warnings]))
    return "\n\n".join(parts)


def side_by_side(
    previews: Mapping[str, Preview], width: int | None = None, log: bool = False, ascii: bool | None = None
) -> str:
    """Several previews: their learning rates in one chart, a table with a line each, and their warnings.

    Args:
        previews: by name, at least one.
        width: as in `Preview.page`, and so are the others.
        log: a logarithmic axis.
        ascii: only characters of ASCII.
    """
    width = terminal_width() if width is None else width
    ascii = only_ascii() if ascii is None else ascii
    lines = {name: one.lines[0] for name, one in previews.items()}
    runs = [one.run for one in previews.values()]
    longest = max(runs, key=lambda run: run.steps or 0)
    alike = len({run.steps_per_epoch for run in runs}) == 1
    per_epoch = longest.steps_per_epoch if alike else None
    notes = dict.fromkeys(note for one in previews.values() for note in one.notes)
    heads = ("", "steps", "first", "peak", "last", "peak / last", "area")
    rows = [
        (name, str(one.run.steps), _short(one.first), _short(one.peak), _short(one.last), _fold(one), _area(one))
        for name, one in lines.items()
    ]
    warnings = [("warning", f"{name}: {line}") for name, one in previews.items() for line in one.warnings]
    parts = [
        _labelled([("run", length(longest)), *(("", note) for note in notes)]),
        chart(lines, int(longest.steps or 0), per_epoch, width, log=log, ascii=ascii),
        "\n".join(_aligned([heads, *rows])),
    ]
    return "\n\n".join([*parts, *([_labelled(warnings)] if warnings else [])])


def _length(preview: Preview) -> str:
    run, sampled = preview.run, preview.lines[0].steps.size
    per_epoch = f" of {run.steps_per_epoch:g} steps" if run.steps_per_epoch else ""
    every = "" if sampled >= (run.steps or 0) else f"; {sampled:,} sampled"
    epochs = f"{run.epochs:g} epoch{'' if run.epochs == 1 else 's'}{per_epoch}, " if run.epochs else ""
    return f"{epochs}{run.steps:,} optimizer steps{every}"


def _table(line: Line, name: str) -> list[str]:
    with_epochs = line.events[0].epoch is not None
    heads = ("step", *(("epoch",) if with_epochs else ()), name, "what happens")
    rows: list[Sequence[str]] = [heads]
    for event in _few(line.events):
        if isinstance(event, str):
            rows.append(("", *(("",) if with_epochs else ()), "", event))
            continue
        epoch = (f"{event.epoch:,.2f}".rstrip("0").rstrip("."),) if event.epoch is not None else ()
        rows.append((f"{event.step:,}", *epoch, f"{event.value:.6g}", event.what))
    return _aligned(rows)


def _few(events: Sequence[Event]) -> Iterator[Event | str]:
    """The events, with long runs of similar ones collapsed."""
    at = 0
    while at < len(events):
        kind, end = _kind(events[at]), at
        while end < len(events) and _kind(events[end]) == kind:
            end += 1
        if end - at > _AT_ONCE + 1:
            yield from events[at : at + _AT_ONCE - 1]
            yield f"... and {end - at - _AT_ONCE} more of these"
            yield events[end - 1]
        else:
            yield from events[at:end]
        at = end


def _kind(event: Event) -> str:
    return event.what.partition(" (")[0]


def _sums(line: Line) -> Iterator[tuple[str, str]]:
    yield "peak", f"{line.peak:.6g} at step {line.steps[line.values.argmax()]:,}"
    yield "last", f"{line.last:.6g}"
    yield "first / last", f"{line.first / line.last:.4g}" if line.last else "the last one is 0"
    if line.peak != line.first:
        yield "peak / last", _fold(line)
    steps = int(line.run.steps or 1)
    if line.sampled:
        yield "area", f"{_area(line)} (the sum over all steps, from a sample; {line.area / steps:.3g} on average)"
    else:
        yield "area", f"{line.area:.6g} (the sum over all steps; {line.area / steps:.4g} on average)"


def _fold(line: Line) -> str:
    return f"{line.peak / line.last:.4g}" if line.last else "inf"


def _area(line: Line) -> str:
    # Of the sample's error, three digits show nothing.
    return f"about {line.area:.3g}" if line.sampled else _short(line.area)


def _short(value: float) -> str:
    return f"{value:.4g}"


def _labelled(lines: Sequence[tuple[str, str]]) -> str:
    width = max((len(label) for label, _ in lines), default=0)
    return "\n".join(f"{label:<{width}}  {text}".rstrip() for label, text in lines)


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """A table with numbers to the right; the first column of words and the last of words to the left."""
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
    words = {at for at in (0, len(rows[0]) - 1) if any(row[at][:1].isalpha() for row in rows[1:])}
    places = [str.ljust if at in words else str.rjust for at in range(len(widths))]
    return [
        "  ".join(place(cell, width) for place, cell, width in zip(places, row, widths, strict=True)).rstrip()
        for row in rows
    ]
