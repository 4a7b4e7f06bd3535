"""/status as one page for the person in front of the node: what it serves, why, and what to do.

Legible at arm's length, on a telephone too; without scripts, and nothing is loaded from anywhere.
"""

import re
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from edge.node.advice import NOT_SERVING, REASONS, STATES, UNKNOWN

REFRESH_S = 5
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none';"
    " frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
_GONE_QUIET = ("activated", "")
_STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --quiet: #59636e; --line: #d9dee3; --soft: #f3f5f7; --page: #fff;
  --good: #1a7f37; --busy: #9a6700; --bad: #b42318; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ec; --quiet: #9aa4af; --line: #373e47; --soft: #20252b;
  --page: #16191d; --good: #57c774; --busy: #e0bb3f; --bad: #ff8578; } }
* { box-sizing: border-box; }
body { font: 20px/1.45 system-ui, "DejaVu Sans", sans-serif; margin: 0 auto; max-width: 60rem; padding: 1.2rem;
  color: var(--ink); background: var(--page); overflow-wrap: anywhere; }
header { display: flex; justify-content: space-between; gap: 0 1.5rem; flex-wrap: wrap; color: var(--quiet); }
h1 { font-size: 3rem; line-height: 1.1; margin: 1rem 0 .4rem; }
h2 { font-size: 1.1rem; margin: 2rem 0 .5rem; border-bottom: 1px solid var(--line); padding-bottom: .2rem; }
p { margin: .3rem 0; } code { font: .85em ui-monospace, "DejaVu Sans Mono", monospace; } .quiet { color: var(--quiet); }
main { border-left: .5rem solid var(--tone); padding-left: 1.2rem; } h1 { color: var(--tone); }
.good { --tone: var(--good); } .busy { --tone: var(--busy); } .bad { --tone: var(--bad); }
.todo { background: var(--soft); border-radius: .4rem; padding: .7rem 1rem; margin-top: 1rem; }
.facts { display: grid; grid-template-columns: repeat(auto-fit, minmax(11rem, 1fr)); gap: 1rem; margin: 1.5rem 0 0; }
.facts div { border-top: 1px solid var(--line); padding-top: .4rem; } .facts b { font-size: 1.7rem; display: block;
  line-height: 1.2; font-weight: 650; } dt { color: var(--quiet); font-size: .85rem; } dl, dd { margin: 0; }
ol { list-style: none; margin: 0; padding: 0; } li { border-bottom: 1px solid var(--line); padding: .5rem 0; }
li .quiet { font-size: .85rem; } @media (max-width: 34rem) { body { font-size: 18px; padding: .9rem; }
  h1 { font-size: 2.2rem; } main { padding-left: .8rem; } }
"""


def prefers_page(accept: str | None) -> bool:
    """Whether a client would rather have HTML than JSON; without a word it gets JSON."""
    weights = {"text/html": 0.0, "application/json": 0.0}
    for part in (accept or "").lower().split(","):
        kind, _, rest = part.strip().partition(";")
        if kind.strip() in weights:
            found = re.search(r"(?:^|;)\s*q=([01](?:\.[0-9]{0,3})?)\s*$", rest)
            weights[kind.strip()] = float(found[1]) if found else 1.0
    return weights["text/html"] > weights["application/json"]


def render(status: Mapping[str, Any]) -> str:
    """The page of what `Agent.describe` says. Every value is escaped."""
    heading, meaning = _heading(status)
    quarantined: Sequence[Mapping[str, Any]] = status.get("quarantined") or []
    events: Sequence[Mapping[str, Any]] = status.get("events") or [e for e in [status.get("last_event")] if e]
    node = escape(str(status.get("node", "")))
    reason = f'<p class="quiet">{escape(str(status["reason"]))}</p>' if status.get("reason") else ""
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="refresh" content="{REFRESH_S}"><title>{escape(heading)} - {node}</title>
<style>{_STYLE}</style></head><body class="{_tone(status)}">
<header><span>{node}</span><span>up {_spoken(status.get("uptime_s", 0))}</span></header>
<main><h1>{escape(heading)}</h1><p>{escape(meaning)}</p>{reason}{_todo(status, events)}</main>
<dl class="facts">{_facts(status)}</dl>
{_section("Last events", [_event(one) for one in reversed(events)], "Nothing has happened yet.")}
{_section("Refused releases", [_refusal(one) for one in reversed(quarantined)], "None.")}
</body></html>
"""


def _heading(status: Mapping[str, Any]) -> tuple[str, str]:
    state = str(status.get("state", ""))
    if status.get("refused") and state == "serving":
        return (
            "Serving, not what was asked",
            "Questions are answered by the release before; the wanted one was refused.",
        )
    return STATES.get(state, (state or "Unknown", ""))


def _tone(status: Mapping[str, Any]) -> str:
    state = status.get("state")
    if state in NOT_SERVING and not status.get("active"):
        return "bad" if status.get("refused") else "busy"
    return "good" if state == "serving" and not status.get("refused") and state in STATES else "busy"


def _todo(status: Mapping[str, Any], events: Sequence[Mapping[str, Any]]) -> str:
    """What to do now: of what stands in the way of the wanted release, else of the last event while it is one."""
    last = str(events[-1].get("reason", "")) if events else ""
    reason = str(status.get("refused") or last)
    if not status.get("refused") and not _stands(status, reason):
        reason = ""
    if reason:
        happened, todo = REASONS.get(reason, (f"The reason is {reason}.", UNKNOWN))
        return f'<div class="todo"><p><b>{escape(happened)}</b></p><p>{escape(todo)}</p></div>'
    if status.get("state") == "waiting":
        todo = "Nobody has said yet which release this node shall serve, or none was published."
        return f'<div class="todo"><p><b>Nothing is wrong.</b></p><p>{todo}</p></div>'
    return '<div class="todo"><p>Nothing has to be done.</p></div>'


def _stands(status: Mapping[str, Any], reason: str) -> bool:
    """Whether the last event still stands in the way: a node that serves what it should has got over it."""
    if reason in _GONE_QUIET:
        return False
    active, desired = status.get("active") or {}, status.get("desired") or {}
    is_there = active and (not desired or active.get("version") == desired.get("version"))
    return not is_there or reason.startswith("disk_") or bool(status.get("reason"))


def _facts(status: Mapping[str, Any]) -> str:
    active, previous, desired = (status.get(name) or {} for name in ("active", "previous", "desired"))
    # A release has a name and a digest; of the wanted one the node may know the number alone.
    facts = [
        ("Serves", _release(active), str(active.get("digest", ""))[:12]),
        ("Shall serve", f"{desired['version']}" if desired else "the newest", ""),
        ("Falls back to", _release(previous), str(previous.get("digest", ""))[:12]),
    ]
    return "".join(
        f"<div><dt>{name}</dt><dd><b>{escape(value)}</b><code>{escape(more)}</code></dd></div>"
        for name, value, more in facts
    )


def _release(release: Mapping[str, Any]) -> str:
    return f"{release.get('name', '')} {release.get('version', '')}".strip() if release else "nothing"


def _event(event: Mapping[str, Any]) -> str:
    reason, message = str(event.get("reason", "")), str(event.get("message", ""))
    said = REASONS.get(reason, (reason, ""))[0]
    at = str(event.get("time", "")).replace("T", " ").replace("Z", " UTC")
    return f'<li>{escape(said)}<br><span class="quiet">{escape(at)} · {escape(message)}</span></li>'


def _refusal(refusal: Mapping[str, Any]) -> str:
    reason = str(refusal.get("reason", ""))
    said = REASONS.get(reason, (reason, ""))[0]
    digest = f" · {str(refusal['digest'])[:12]}" if refusal.get("digest") else ""
    told = escape(str(refusal.get("message", "")))
    version = escape(str(refusal.get("version", "")))
    return f'<li><b>{version}</b> {escape(said)}<br><span class="quiet">{told}{escape(digest)}</span></li>'


def _section(title: str, items: Sequence[str], none: str) -> str:
    return f"<h2>{title}</h2>" + (f"<ol>{''.join(items)}</ol>" if items else f'<p class="quiet">{none}</p>')


def _spoken(seconds: Any) -> str:
    """A time as a person says it."""
    whole = int(float(seconds))
    for size, name in ((86400, "day"), (3600, "hour"), (60, "minute")):
        if whole >= size:
            count = whole // size
            return f"{count} {name}{'s' if count > 1 else ''}"
    return f"{whole} seconds" if whole != 1 else "1 second"
