"""What says nothing of the task is not read: pleas for a better model, courtesies, wrapping.

Owns what these look like. A turn that holds nothing else is left as it is.
"""

from __future__ import annotations

import re

# One of these stands in every such sentence; texts without any are done after a few searches.
_HINTS = (
    "model",
    "tier",
    "rout",
    "gpt",
    "claude",
    "opus",
    "system",
    "admin",
    "difficulty",
    " llm",
    " ai ",
)
_SENTENCE = re.compile(r"[^.!?\n;।]+(?:[.!?;।](?=[^\s<])[^.!?\n;।]+)*[.!?;।\n]*\s*")
_WHAT = (
    r"models?|tiers?|llms?|engines?|ai|gpt[-\d.]*|claude|opus|brain|version|route[rd]?|routing"
    r"|wala|wale"
)
_HOW = (
    r"best|strong\w*|smart\w*|power\w*|premium|capable|larg\w+|bigg?\w*|advanced|top\w*|expensive"
    r"|frontier|flagship|highest|sabse|badhiya|ach+[ehai]+|bad[ae]|mahang[ae]|good|better|pro|max\w*"
    r"|clever\w*|heav\w+|gpt[-\d.]*|claude|opus|full\w*|senior|tez|takatwar"
    r"|not the (?:small|cheap)\w*"
)
_PLEA = re.compile(
    # The kind of model and the wish for it, in either order within a sentence.
    rf"\b(?:{_HOW})\b[^.!?\n;]{{0,40}}\b(?:{_WHAT})\b|\b(?:{_WHAT})\b[^.!?\n;]{{0,40}}\b(?:{_HOW})\b"
    r"|\b(?:use|call|with|to|via|by|need|want|choose)\b[^.!?\n;]{0,20}\b(?:gpt[-\d.]*|claude|opus)\b"
    # Notes made to look like a system's.
    r"|^\W*(?:system|admin\w*|developer|router?|routing|policy|gateway)\b[^\n]{0,30}[:\]>=]"
    r"|\b(?:tier|difficulty|complexity|priority|score|routing|model|reasoning_effort|urgency)\s*[:=]+\s*\S"
    r"|</?(?:system|routing|admin|tier)\b|\b(?:escalate|upgrade|override)\b"
    r"|\b(?:cheap|small|weak|mini|chote?|sasta|saste)\w*\b[^.!?\n;]{0,30}\b(?:models?|tiers?|ai|llms?)\b",
    re.IGNORECASE,
)
_WISH = re.compile(
    r"\b(?:use|send|route|escalate|upgrade|switch|need|want|give|pick|choose|requir\w+|forward|direct"
    r"|select\w*|set|let|answer\w*|handle[ds]?|run|go|must|please|override|ignore|assign\w*|only"
    r"|don'?t|do not|karwao|kar\w*|chahiye|bhej\w*|do|dena|lagao|istemal|pucho|puch\w*|mat|force\w*"
    r"|demand\w*|deserves?|call|employ|authori[sz]ed?|enable[ds]?|mandatory)\b|[:=\]>]",
    re.IGNORECASE,
)
# Encoded text: long, without blanks, and of digits or both cases.
_ENCODED = re.compile(r"(?<!\S)(?=[a-z0-9+/]*[A-Z0-9])[A-Za-z0-9+/]{28,}={0,2}(?!\S)")
_SHORTEST_CODE = 28
_LONGEST_SENTENCE = 240


_GREETING = re.compile(
    r"\s*(?:(?:hi|hello|hey|namaste|dear \w+|good (?:morning|afternoon|evening)|bhai please)\b"
    r"[^.!?\n,:]{0,16}[,!.:]\s*|(?:quick one|i have a (?:quick )?question)[.:,]\s*"
    r"|(?:please|kindly|can you|could you)(?: please)? (?:help me with|answer) (?:this|these)"
    r"[^:?\n]{0,12}[:?]\s*)+",
    re.IGNORECASE,
)
_THANKS = re.compile(
    r"(?:(?:(?<=[.!?\n])|^)\s*(?:many thanks|thanks?|thx|thank you|dhanyavaad|shukriya"
    r"|much appreciated|please|pls|asap)\b[^.!?\n]{0,40}[.!]*"
    r"|\s+(?:please|pls|asap(?: please)?)[.!]*)+\s*$",
    re.IGNORECASE,
)
_TAIL_CHARS = 80
_COURTESIES = ("thank", "thx", "please", "pls", "asap", "dhanyavaad", "shukriya", "apprec")
_HEADING = re.compile(r"#+ *(?:question|task|prompt|request|query)? *\n+|#+ +", re.IGNORECASE)
_QUOTED = re.compile(r"^> ?", re.MULTILINE)


def task_of(text: str) -> str:
    """Return the text without wrapping, courtesies, pleas for a better model, and encoded runs."""
    kept = said = without_pleas(without_markdown(text))
    start = _GREETING.match(kept)
    if start:
        kept = kept[start.end() :]
    tail = kept[-_TAIL_CHARS:]
    lower = tail.lower()
    if any(hint in lower for hint in _COURTESIES):
        thanks = _THANKS.search(tail)
        if thanks:
            kept = kept[: len(kept) - len(tail) + thanks.start()]
    return kept.strip() or said.strip() or text


def without_markdown(text: str) -> str:
    """Return the text without quote marks, heading, bold, fence or bullet around all of it."""
    first = text[:1]
    if first == ">":
        return _QUOTED.sub("", text)
    if first == "#":
        return _HEADING.sub("", text, count=1)
    if first == "*" and text.startswith("**") and text.endswith("**"):
        return text[2:-2]
    if first == "`" and text.startswith("```\n") and text.endswith("\n```"):
        return text[4:-4]
    return text[2:] if text.startswith("- ") and "\n- " not in text else text


def without_pleas(text: str) -> str:
    """Return the text without sentences that ask for a better model, and without encoded runs."""
    kept = text
    if max(map(len, text.split()), default=0) >= _SHORTEST_CODE:
        kept = _ENCODED.sub(" ", text)
    lower = kept.lower()
    if any(hint in lower for hint in _HINTS):
        kept = _SENTENCE.sub(_or_nothing, kept)
    return kept if kept.strip() else text


def _or_nothing(sentence: re.Match[str]) -> str:
    said = sentence.group()
    if len(said) > _LONGEST_SENTENCE or not _PLEA.search(said) or not _WISH.search(said):
        return said
    return "\n" if said.endswith("\n") else ""
